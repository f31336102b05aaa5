CREATE ROLE IF NOT EXISTS {database}_WATCHER
COMMENT = 'The scheduled check: state of the pipes, failed loads; can read no event';
