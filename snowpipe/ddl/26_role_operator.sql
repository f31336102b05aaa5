CREATE ROLE IF NOT EXISTS {database}_OPERATOR
COMMENT = 'Operates the stage: reads every schema, loads and repairs what a pipe missed';
