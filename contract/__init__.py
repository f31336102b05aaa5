"""The data formats between the parts: events, S3 objects, log lines. Imports none of our packages."""
