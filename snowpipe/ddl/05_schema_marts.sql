-- Managed access: dbt's role owns its tables but cannot open them to others.
CREATE SCHEMA IF NOT EXISTS {database}.MARTS
WITH MANAGED ACCESS
COMMENT = 'For readers: visits and daily totals (dbt)';
