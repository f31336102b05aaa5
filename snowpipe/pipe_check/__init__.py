"""The scheduled check of the Snowflake pipes. The zip of its Lambda function contains no other part of snowpipe."""
