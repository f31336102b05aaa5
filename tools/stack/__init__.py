"""A whole Milkrun on this machine: AWS (LocalStack), Snowflake, and our functions deployed onto them."""
