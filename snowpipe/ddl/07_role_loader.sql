CREATE ROLE IF NOT EXISTS {database}_LOADER
COMMENT = 'Loads RAW: operates the pipes and backfills';
