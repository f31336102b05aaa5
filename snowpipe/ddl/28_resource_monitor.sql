-- This monitor is created only if SNOWFLAKE_CREDIT_QUOTA is set. It does not limit Snowpipe's credits.
-- (sqlfluff cannot parse this statement, hence noqa.)
CREATE RESOURCE MONITOR IF NOT EXISTS {warehouse}_MONITOR WITH
CREDIT_QUOTA = {credit_quota} -- noqa: PRS
FREQUENCY = MONTHLY
START_TIMESTAMP = IMMEDIATELY
TRIGGERS
ON 80 PERCENT DO NOTIFY
ON 100 PERCENT DO SUSPEND;
