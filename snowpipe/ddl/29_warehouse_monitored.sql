-- Only if SNOWFLAKE_CREDIT_QUOTA is set: the monitor of at most {credit_quota} credits per month.
ALTER WAREHOUSE {warehouse} SET RESOURCE_MONITOR = {warehouse}_MONITOR;
