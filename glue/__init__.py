"""Jobs that process the whole archive on Spark (local or AWS Glue) or DuckDB. They must run on Glue's Python 3.11."""
