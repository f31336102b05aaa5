"""Jobs over the whole archive, on Spark (local or AWS Glue) or DuckDB. Must compile on Python 3.11 for Glue."""
