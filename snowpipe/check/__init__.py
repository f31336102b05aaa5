"""The scheduled check of Snowflake's pipes. Its Lambda function's package contains no other part of snowpipe."""
