CREATE DATABASE IF NOT EXISTS {database}
COMMENT = 'Milkrun: what the fleet''s phones sent, and what follows from it';
