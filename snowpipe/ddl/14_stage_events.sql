-- Without the slash at the end of the URL, the stage would also match events_old/.
CREATE STAGE IF NOT EXISTS {database}.RAW.EVENTS_STAGE
    URL = 's3://{bucket}/events/'
    STORAGE_INTEGRATION = {database}_S3
    FILE_FORMAT = (FORMAT_NAME = '{database}.RAW.NDJSON')
    COMMENT = 'Objects of the archive under events/';
