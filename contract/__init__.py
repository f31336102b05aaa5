"""The shapes that cross each arrow of the flow: events, S3 objects, log lines. Imports nobody of ours."""
