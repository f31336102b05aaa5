"""The scheduled check of Snowflake's pipes, a Lambda function with only this folder in its zip."""
