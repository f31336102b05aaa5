CREATE ROLE IF NOT EXISTS {database}_WATCHER
COMMENT = 'The scheduled check: sees the state of the pipes and failed loads, but no events';
