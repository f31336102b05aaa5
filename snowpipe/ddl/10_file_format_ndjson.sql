-- Each line is an event or a reject. STRIP_NULL_VALUES keeps its default, FALSE, so that events are stored as
-- they were sent.
CREATE OR ALTER FILE FORMAT {database}.RAW.NDJSON
    TYPE = JSON
    COMPRESSION = AUTO
    STRIP_OUTER_ARRAY = FALSE
    COMMENT = 'One JSON document per line, plain or gzip';
