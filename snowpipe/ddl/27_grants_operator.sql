GRANT ROLE {database}_OPERATOR TO ROLE SYSADMIN;
GRANT ROLE {database}_LOADER TO ROLE {database}_OPERATOR;
GRANT ROLE {database}_READER TO ROLE {database}_OPERATOR;
-- Future tables and views are included, because dbt replaces its tables, and grants on a replaced table are
-- lost.
GRANT USAGE ON SCHEMA {database}.STAGING TO ROLE {database}_OPERATOR;
GRANT SELECT ON ALL TABLES IN SCHEMA {database}.STAGING TO ROLE {database}_OPERATOR;
GRANT SELECT ON ALL VIEWS IN SCHEMA {database}.STAGING TO ROLE {database}_OPERATOR;
GRANT SELECT ON FUTURE TABLES IN SCHEMA {database}.STAGING TO ROLE {database}_OPERATOR;
GRANT SELECT ON FUTURE VIEWS IN SCHEMA {database}.STAGING TO ROLE {database}_OPERATOR;
