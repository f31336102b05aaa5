-- A line is an event. STRIP_NULL_VALUES stays off: what is stored is the event as sent.
CREATE OR ALTER FILE FORMAT {database}.RAW.NDJSON
    TYPE = JSON
    COMPRESSION = AUTO
    STRIP_OUTER_ARRAY = FALSE
    COMMENT = 'One JSON document per line, plain or gzip';
