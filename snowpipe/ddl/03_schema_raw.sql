-- With managed access, only the schema's owner or a role with MANAGE GRANTS can grant privileges, so no
-- loader can open RAW to others.
CREATE SCHEMA IF NOT EXISTS {database}.RAW
WITH MANAGED ACCESS
COMMENT = 'Events as they were sent, as often as they were delivered';
