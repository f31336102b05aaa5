"""The one way in which functions and tools call AWS on their hot paths.

`Access` knows region, credentials and endpoints, and makes the clients: `Archive` (S3), `KinesisStream`, `SqsQueue`,
`DynamoTable` and `JsonClient` for every service that speaks JSON. All of them sign their requests themselves and keep
one connection open, because botocore costs ten times the CPU of the call (docs/adr: "One AWS adapter").
"""
