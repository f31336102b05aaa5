-- `lines_by_key` is the number of lines that the object's key states; null if the key does not have Milkrun's
-- format.
CREATE OR REPLACE VIEW {database}.OPS.LOADED_FILES
COPY GRANTS
COMMENT = 'One row per object with rows in RAW'
AS
WITH lines AS (
    SELECT
        'events' AS kind,
        file_name,
        file_modified_at,
        scanned_at
    FROM {database}.RAW.EVENTS
    UNION ALL
    SELECT
        'rejected' AS kind,
        file_name,
        file_modified_at,
        scanned_at
    FROM {database}.RAW.REJECTED
)

SELECT
    kind,
    file_name,
    TRY_CAST(SPLIT_PART(file_name, '.', -3) AS INTEGER) AS lines_by_key,
    COUNT(*) AS row_count,
    MIN(file_modified_at) AS received_at,
    MAX(scanned_at) AS scanned_at
FROM lines
GROUP BY kind, file_name;
