CREATE TABLE IF NOT EXISTS {database}.RAW.REJECTED (
    payload VARIANT COMMENT 'Reasons and the event, or the body in base64',
    file_name VARCHAR NOT NULL COMMENT 'Key of the object in the bucket',
    file_row_number NUMBER(38, 0) NOT NULL COMMENT 'Line of the object',
    file_modified_at TIMESTAMP_NTZ COMMENT 'Time of receipt: S3''s clock, UTC, whole seconds',
    scanned_at TIMESTAMP_LTZ COMMENT 'When Snowflake began to read the object'
)
COMMENT = 'One row per line of an object under rejected/; may contain duplicates';
