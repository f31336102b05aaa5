"""The data formats that Milkrun's parts exchange: events, S3 objects, log lines. Imports no other Milkrun package."""
