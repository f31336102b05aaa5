"""A complete Milkrun on this machine: AWS (LocalStack), a local Snowflake, and the deployed functions."""
