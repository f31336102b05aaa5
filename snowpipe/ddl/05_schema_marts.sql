-- With managed access, dbt's role owns its tables in this schema but cannot grant privileges on them to other
-- roles.
CREATE SCHEMA IF NOT EXISTS {database}.MARTS
WITH MANAGED ACCESS
COMMENT = 'For readers: visits and daily totals (dbt)';
