-- With managed access, only the schema's owner can grant privileges on its objects, so the loader's role cannot.
CREATE SCHEMA IF NOT EXISTS {database}.RAW
WITH MANAGED ACCESS
COMMENT = 'Events as they were sent, as often as they were delivered';
