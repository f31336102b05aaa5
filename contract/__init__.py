"""The shapes that cross each arrow of the flow: events, S3 objects, Kinesis records, log lines. Imports nobody."""
