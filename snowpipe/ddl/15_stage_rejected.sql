-- Without the slash at the end of the URL, the stage would also match rejected_old/.
CREATE STAGE IF NOT EXISTS {database}.RAW.REJECTED_STAGE
    URL = 's3://{bucket}/rejected/'
    STORAGE_INTEGRATION = {database}_S3
    FILE_FORMAT = (FORMAT_NAME = '{database}.RAW.NDJSON')
    COMMENT = 'Objects of the archive under rejected/';
