-- These statements run only if MILKRUN_ERROR_TOPIC_ARN and SNOWFLAKE_ERROR_ROLE_ARN are set, because this
-- comment contains their placeholders, '{error_topic_arn}' and '{error_role_arn}'. Snowflake then reports
-- each failed file, so the hourly check for failed loads is unnecessary.
ALTER PIPE {database}.RAW.EVENTS_PIPE SET ERROR_INTEGRATION = {database}_ERRORS;
ALTER PIPE {database}.RAW.REJECTED_PIPE SET ERROR_INTEGRATION = {database}_ERRORS;
