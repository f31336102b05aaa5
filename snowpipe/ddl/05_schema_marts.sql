CREATE SCHEMA IF NOT EXISTS {database}.MARTS
COMMENT = 'For readers: visits and what is counted from them (dbt)';
