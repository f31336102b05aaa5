-- Managed access: dbt's role owns its tables but cannot open them to others.
CREATE SCHEMA IF NOT EXISTS {database}.STAGING
WITH MANAGED ACCESS
COMMENT = 'Typed events without duplicates (dbt)';
