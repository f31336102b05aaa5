"""A complete Milkrun on this machine: AWS (LocalStack), Snowflake, and our functions deployed to them."""
