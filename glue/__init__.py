"""Jobs on the archive, for DuckDB, Spark (local or AWS Glue) or Beam. They must also run on Glue's Python 3.11."""
