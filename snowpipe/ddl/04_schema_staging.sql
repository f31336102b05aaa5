-- With managed access, dbt's role owns its tables in this schema but cannot grant privileges on them to other
-- roles.
CREATE SCHEMA IF NOT EXISTS {database}.STAGING
WITH MANAGED ACCESS
COMMENT = 'Typed events without duplicates (dbt)';
