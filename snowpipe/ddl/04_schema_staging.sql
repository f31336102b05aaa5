CREATE SCHEMA IF NOT EXISTS {database}.STAGING
COMMENT = 'Typed, each event id once (dbt)';
