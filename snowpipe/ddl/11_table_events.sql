-- Fields of events become columns in dbt/models/staging/typed_events.sql.
-- The columns have no default values, because a default of CURRENT_TIMESTAMP can be hours too early if a pipe
-- fills the table.
CREATE TABLE IF NOT EXISTS {database}.RAW.EVENTS (
    payload VARIANT COMMENT 'The event as it was sent',
    file_name VARCHAR NOT NULL COMMENT 'Key of the object in the bucket',
    file_row_number NUMBER(38, 0) NOT NULL COMMENT 'Line of the object',
    file_modified_at TIMESTAMP_NTZ COMMENT 'Time of receipt: S3''s clock, UTC, whole seconds',
    scanned_at TIMESTAMP_LTZ COMMENT 'When Snowflake began to read the object'
)
COMMENT = 'One row per line of an object under events/; may contain duplicates';
