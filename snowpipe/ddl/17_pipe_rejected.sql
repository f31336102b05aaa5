-- The COPY statement casts no field, because one malformed field would make the whole file fail. After a
-- change of this statement, run milkrun warehouse recreate.
CREATE PIPE IF NOT EXISTS {database}.RAW.REJECTED_PIPE
AUTO_INGEST = TRUE
AWS_SNS_TOPIC = '{topic_arn}'
COMMENT = 'Objects under rejected/ to RAW.REJECTED'
AS
COPY INTO {database}.RAW.REJECTED (payload, file_name, file_row_number, file_modified_at, scanned_at)
FROM (
    SELECT
        $1,
        METADATA$FILENAME,
        METADATA$FILE_ROW_NUMBER,
        METADATA$FILE_LAST_MODIFIED,
        METADATA$START_SCAN_TIME
    FROM @{database}.RAW.REJECTED_STAGE
)
FILE_FORMAT = (FORMAT_NAME = '{database}.RAW.NDJSON')
ON_ERROR = SKIP_FILE;
