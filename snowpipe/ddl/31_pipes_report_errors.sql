-- Run only if MILKRUN_ERROR_TOPIC_ARN is set, because this comment contains its placeholder,
-- '{error_topic_arn}'. Snowflake then reports each failed file, so the hourly check for failed loads is
-- unnecessary.
ALTER PIPE {database}.RAW.EVENTS_PIPE SET ERROR_INTEGRATION = {database}_ERRORS;
ALTER PIPE {database}.RAW.REJECTED_PIPE SET ERROR_INTEGRATION = {database}_ERRORS;
