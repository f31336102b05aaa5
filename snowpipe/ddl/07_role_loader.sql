CREATE ROLE IF NOT EXISTS {database}_LOADER
COMMENT = 'Fills RAW: runs the pipes and the back-fills';
