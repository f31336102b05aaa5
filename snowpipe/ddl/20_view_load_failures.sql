-- The view goes back five minutes less than 14 days, like snowpipe/history.py, because a START_TIME more than
-- 14 days ago is an error. The period is in minutes, because 14 days are an hour longer in a time zone whose
-- clocks have just gone back.
CREATE OR REPLACE VIEW {database}.OPS.LOAD_FAILURES
COPY GRANTS
COMMENT = 'One row per load of the last 14 days that failed completely or in part'
AS
SELECT
    TABLE_NAME,
    FILE_NAME,
    STATUS,
    ROW_COUNT,
    ROW_PARSED,
    ERROR_COUNT,
    FIRST_ERROR_MESSAGE,
    FIRST_ERROR_LINE_NUMBER,
    LAST_LOAD_TIME
FROM
    TABLE({database}.INFORMATION_SCHEMA.COPY_HISTORY(
        TABLE_NAME => '{database}.RAW.EVENTS',
        START_TIME => DATEADD('minute', -20155, CURRENT_TIMESTAMP())
    ))
WHERE STATUS IN ('Load failed', 'Partially loaded', 'Load skipped')
UNION ALL
SELECT
    TABLE_NAME,
    FILE_NAME,
    STATUS,
    ROW_COUNT,
    ROW_PARSED,
    ERROR_COUNT,
    FIRST_ERROR_MESSAGE,
    FIRST_ERROR_LINE_NUMBER,
    LAST_LOAD_TIME
FROM
    TABLE({database}.INFORMATION_SCHEMA.COPY_HISTORY(
        TABLE_NAME => '{database}.RAW.REJECTED',
        START_TIME => DATEADD('minute', -20155, CURRENT_TIMESTAMP())
    ))
WHERE STATUS IN ('Load failed', 'Partially loaded', 'Load skipped');
