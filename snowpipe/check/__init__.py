"""Looks at Snowflake's pipes from AWS. A Lambda of its own, so nothing else of `snowpipe` is in its zip."""
