-- Each line is an event. STRIP_NULL_VALUES is off, so that the event is stored as it was sent.
CREATE OR ALTER FILE FORMAT {database}.RAW.NDJSON
    TYPE = JSON
    COMPRESSION = AUTO
    STRIP_OUTER_ARRAY = FALSE
    COMMENT = 'One JSON document per line, plain or gzip';
