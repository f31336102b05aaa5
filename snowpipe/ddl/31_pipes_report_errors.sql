-- Run only if '{error_topic_arn}' is set. Snowflake then reports each failed file, which makes the hourly
-- check for failed loads unnecessary.
ALTER PIPE {database}.RAW.EVENTS_PIPE SET ERROR_INTEGRATION = {database}_ERRORS;
ALTER PIPE {database}.RAW.REJECTED_PIPE SET ERROR_INTEGRATION = {database}_ERRORS;
