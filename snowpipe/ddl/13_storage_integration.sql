-- We choose the external id, so that the AWS role still trusts an integration that was replaced.
-- (sqlfluff does not know STORAGE_AWS_EXTERNAL_ID, hence noqa.)
CREATE STORAGE INTEGRATION IF NOT EXISTS {database}_S3
TYPE = EXTERNAL_STAGE
STORAGE_PROVIDER = 'S3'
ENABLED = TRUE
STORAGE_AWS_ROLE_ARN = '{storage_role_arn}'
STORAGE_AWS_EXTERNAL_ID = '{external_id}' -- noqa: PRS
STORAGE_ALLOWED_LOCATIONS = ('s3://{bucket}/events/', 's3://{bucket}/rejected/')
COMMENT = 'Reads events/ and rejected/ of the Milkrun bucket';
