-- received_at is truncated to seconds, so a delay may be up to one second too long.
CREATE OR REPLACE VIEW {database}.OPS.LOAD_DELAYS
COPY GRANTS
COMMENT = 'One row per kind and hour of receipt: objects, rows, and their delay until loading'
AS
WITH files AS (
    SELECT
        *,
        DATEDIFF('second', received_at, CONVERT_TIMEZONE('UTC', scanned_at)::TIMESTAMP_NTZ) AS delay_seconds
    FROM {database}.OPS.LOADED_FILES
)

SELECT
    kind,
    DATE_TRUNC('hour', received_at) AS received_hour,
    COUNT(*) AS file_count,
    SUM(row_count)::INTEGER AS row_count,
    SUM(IFF(row_count = lines_by_key, 0, 1))::INTEGER AS files_that_differ_from_their_key,
    MEDIAN(delay_seconds) AS delay_seconds_median,
    MAX(delay_seconds) AS delay_seconds_max
FROM files
GROUP BY kind, DATE_TRUNC('hour', received_at);
