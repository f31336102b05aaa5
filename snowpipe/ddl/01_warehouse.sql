-- A statement that runs or waits this long is probably a mistake, and must not cost more credits.
CREATE WAREHOUSE IF NOT EXISTS {warehouse} WITH
WAREHOUSE_SIZE = 'XSMALL'
AUTO_SUSPEND = 60
AUTO_RESUME = TRUE
INITIALLY_SUSPENDED = TRUE
STATEMENT_TIMEOUT_IN_SECONDS = 3600
STATEMENT_QUEUED_TIMEOUT_IN_SECONDS = 600
COMMENT = 'Milkrun: dbt, the commands and backfills (pipes need no warehouse)';
