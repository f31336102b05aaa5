CREATE SCHEMA IF NOT EXISTS {database}.OPS
COMMENT = 'For operators: what the pipes loaded, when, and what failed';
