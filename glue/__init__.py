"""Work over the whole archive, on Spark (here or AWS Glue) or one machine's DuckDB. Python 3.11 syntax."""
