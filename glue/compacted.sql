-- Optional: the compacted Parquet files as an external table in Snowflake, for events that RAW no longer has. Replace the
-- two names in braces. The storage integration must also allow s3://{bucket}/compacted/, and its IAM role must be able to
-- read that prefix. AUTO_REFRESH stays off because the manifests decide which files count. `python -m glue.tables
-- --archive s3://BUCKET --from … --to …` prints the ALTER statements that make the table list exactly those files. Run
-- them within three hours after a compaction; after that, superseded files may be deleted (`GRACE` in glue/compact.py).

-- Without USE_LOGICAL_TYPE, Snowflake would read the microseconds of a time as seconds. Query the table in a session with
-- TIMEZONE = 'UTC', because the times are instants, which are converted to the session's time zone.
CREATE FILE FORMAT IF NOT EXISTS {database}.RAW.PARQUET TYPE = PARQUET USE_LOGICAL_TYPE = TRUE;

CREATE STAGE IF NOT EXISTS {database}.RAW.COMPACTED_STAGE
    URL = 's3://{bucket}/compacted/'
    STORAGE_INTEGRATION = {database}_S3
    FILE_FORMAT = {database}.RAW.PARQUET;

CREATE EXTERNAL TABLE IF NOT EXISTS {database}.RAW.COMPACTED_EVENTS (
    received_date DATE AS (TO_DATE(REGEXP_SUBSTR(METADATA$FILENAME, 'dt=([0-9-]+)', 1, 1, 'e', 1))),
    event_type VARCHAR AS (value:event_type::VARCHAR),
    event_id VARCHAR AS (value:event_id::VARCHAR),
    device_id VARCHAR AS (value:device_id::VARCHAR),
    created_at TIMESTAMP_NTZ AS (value:created_at::TIMESTAMP_NTZ),
    payload VARIANT AS (PARSE_JSON(value:payload::VARCHAR)),
    file_name VARCHAR AS (value:file_name::VARCHAR),
    file_row_number NUMBER AS (value:file_row_number::NUMBER),
    file_modified_at TIMESTAMP_NTZ AS (value:file_modified_at::TIMESTAMP_NTZ)
)
PARTITION BY (received_date)
LOCATION = @{database}.RAW.COMPACTED_STAGE
FILE_FORMAT = (FORMAT_NAME = '{database}.RAW.PARQUET')
REFRESH_ON_CREATE = FALSE
AUTO_REFRESH = FALSE;
