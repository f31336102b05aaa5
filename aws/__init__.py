"""The AWS adapter used by the functions, and by the tools where speed matters.

`Access` holds the region, credentials and endpoints, and creates the clients: `Archive` (S3), `KinesisStream`,
`RedriveQueue` (SQS), `Table`, and `JsonClient` for services with a JSON protocol. The clients sign requests themselves
and keep their connections open, because a call through botocore takes ten times the CPU (docs/adr: "One AWS adapter").
"""
