-- SYSADMIN has this role through <DB>_OPERATOR. Future tables and views are included, because dbt replaces
-- its tables, and grants on a replaced table are lost.
GRANT USAGE ON WAREHOUSE {warehouse} TO ROLE {database}_READER;
GRANT USAGE ON DATABASE {database} TO ROLE {database}_READER;
GRANT USAGE ON SCHEMA {database}.MARTS TO ROLE {database}_READER;
GRANT SELECT ON ALL TABLES IN SCHEMA {database}.MARTS TO ROLE {database}_READER;
GRANT SELECT ON ALL VIEWS IN SCHEMA {database}.MARTS TO ROLE {database}_READER;
GRANT SELECT ON FUTURE TABLES IN SCHEMA {database}.MARTS TO ROLE {database}_READER;
GRANT SELECT ON FUTURE VIEWS IN SCHEMA {database}.MARTS TO ROLE {database}_READER;
