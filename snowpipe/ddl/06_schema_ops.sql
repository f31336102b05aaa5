CREATE SCHEMA IF NOT EXISTS {database}.OPS
COMMENT = 'For operators: loaded files, delays and failures';
