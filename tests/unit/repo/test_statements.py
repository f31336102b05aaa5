"""Test that tests/statements.py accepts an SQL statement only if a parser supports it or one of the listed patterns
matches it completely.
"""

import pytest

from tests.statements import known

INTEGRATION = (
    "CREATE STORAGE INTEGRATION IF NOT EXISTS A TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE"
    " STORAGE_AWS_ROLE_ARN = 'a' STORAGE_AWS_EXTERNAL_ID = 'b' STORAGE_ALLOWED_LOCATIONS = ('s3://a/')"
)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER PIPE D.RAW.P UNSET ERROR_INTEGRATION",
        "ALTER PIPE D.RAW.P REFRESH PREFIX = 'dt=2026-11-28/'",
        "SHOW GRANTS ON FILE FORMAT D.RAW.NDJSON",
        INTEGRATION,
    ],
    ids=["unset", "refresh", "grants", "integration"],
)
def test_sql_statement_that_a_parser_supports_or_a_listed_pattern_matches_is_accepted(sql: str) -> None:
    assert known(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER PIPE D.RAW.P FLY",
        "ALTER PIPE D.RAW.P UNSET ERROR_INTEGRATION OR NOT",
        "ALTER NOTIFICATION INTEGRATION E SET AWS_SNS_ROLE = 'arn'",
        "SHOW GRANTS ON PIPE D.RAW.P AND D.RAW.Q",
        INTEGRATION.replace("STORAGE_PROVIDER =", "STORAGE_PROVIDER"),
    ],
    ids=["verb", "rest", "property", "two", "integration"],
)
def test_invalid_variation_of_an_accepted_sql_statement_is_rejected(sql: str) -> None:
    assert not known(sql)
