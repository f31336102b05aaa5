-- This integration reports failed loads. It is created only if MILKRUN_ERROR_TOPIC_ARN and
-- SNOWFLAKE_ERROR_ROLE_ARN are set.
CREATE NOTIFICATION INTEGRATION IF NOT EXISTS {database}_ERRORS
ENABLED = TRUE
TYPE = QUEUE
DIRECTION = OUTBOUND
NOTIFICATION_PROVIDER = AWS_SNS
AWS_SNS_TOPIC_ARN = '{error_topic_arn}'
AWS_SNS_ROLE_ARN = '{error_role_arn}'
COMMENT = 'Reports files that the pipes failed to load';
