"""The scheduled check of Snowflake's pipes, a Lambda function of its own: its zip has nothing else of
`snowpipe`.
"""
