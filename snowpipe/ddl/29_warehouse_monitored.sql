-- This statement runs only if SNOWFLAKE_CREDIT_QUOTA is set, because this comment contains its placeholder.
-- The monitor allows {credit_quota} credits per month.
ALTER WAREHOUSE {warehouse} SET RESOURCE_MONITOR = {warehouse}_MONITOR;
