-- The external id is ours: an integration that is made again then keeps the trust of the AWS role.
-- (sqlfluff does not know STORAGE_AWS_EXTERNAL_ID, hence noqa.)
CREATE STORAGE INTEGRATION IF NOT EXISTS {database}_S3
TYPE = EXTERNAL_STAGE
STORAGE_PROVIDER = 'S3'
ENABLED = TRUE
STORAGE_AWS_ROLE_ARN = '{storage_role_arn}'
STORAGE_AWS_EXTERNAL_ID = '{external_id}' -- noqa: PRS
STORAGE_ALLOWED_LOCATIONS = ('s3://{bucket}/events/', 's3://{bucket}/rejected/')
COMMENT = 'Reads events/ and rejected/ of the Milkrun bucket';
