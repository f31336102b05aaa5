CREATE DATABASE IF NOT EXISTS {database}
COMMENT = 'Milkrun: events of the fleet''s phones, and marts built from them';
