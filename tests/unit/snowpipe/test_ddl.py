"""Test the numbered DDL files and their placeholders."""

import re
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from snowpipe.ddl_files import DDL, Parameters, definitions, fill, same_statement, tokens
from snowpipe.pipes import HISTORY_REACH

GOOD = {
    "database": "MILKRUN",
    "warehouse": "MILKRUN_WH",
    "bucket": "milkrun-archive",
    "topic_arn": "arn:aws:sns:eu-west-1:123456789012:milkrun-events",
    "storage_role_arn": "arn:aws:iam::123456789012:role/milkrun-snowflake",
    "external_id": "milkrun_SFCRole=1_abc",
    "credit_quota": "100",
    "error_topic_arn": "arn:aws:sns:eu-west-1:123456789012:milkrun-alarms",
    "error_role_arn": "arn:aws:iam::123456789012:role/milkrun-errors",
}
FILES = sorted(DDL.glob("*.sql"))
HOSTILE = [
    "'",
    '"',
    "\\",
    ";",
    "/*",
    "$$",
    "\n",
    " ",
    "x'; DROP DATABASE MILKRUN; --",
    "{database}",
    "é",
    "",
]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("text", HOSTILE)
def test_ddl_parameter_that_could_change_the_structure_of_a_statement_is_refused(
    name: str, text: str
) -> None:
    with pytest.raises(ValidationError):
        Parameters.model_validate(GOOD | {name: GOOD[name] + text if text else ""})


@pytest.mark.parametrize("word", ["TRUE", "TABLE", "SELECT", "NULL"])
def test_reserved_word_is_refused_as_a_database_name(word: str) -> None:
    with pytest.raises(ValidationError):
        Parameters.model_validate(GOOD | {"database": word})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.text(max_size=20))
@example("database", "TRUE")
@example("warehouse", "TABLE")
def test_valid_ddl_parameters_never_change_the_structure_of_a_statement(name: str, text: str) -> None:
    try:
        parameters = Parameters.model_validate(GOOD | {name: text})
    except ValidationError:
        return
    for path in FILES:
        plain = [t.token_type for t in tokens(fill(path.read_text(), Parameters.model_validate(GOOD)))]
        assert [t.token_type for t in tokens(fill(path.read_text(), parameters))] == plain


def test_every_ddl_placeholder_is_a_parameter_and_every_parameter_is_used() -> None:
    used = set(re.findall(r"\{(\w+)\}", "".join(path.read_text() for path in FILES)))
    assert used == set(Parameters.model_fields)


def test_placeholders_outside_quotes_are_identifiers_or_numbers() -> None:
    for path in FILES:
        outside = re.sub(r"'[^']*'", "''", path.read_text())
        assert set(re.findall(r"\{(\w+)\}", outside)) <= {"database", "warehouse", "credit_quota"}, path.name


def test_resource_monitor_is_created_only_if_a_quota_is_set() -> None:
    quota = Parameters.model_validate(GOOD)
    assert "CREDIT_QUOTA = 100" in "".join(each.sql for each in definitions(quota))
    none = "".join(each.sql for each in definitions(quota.model_copy(update={"credit_quota": None})))
    assert "RESOURCE" not in none


def test_failed_loads_are_reported_only_if_a_topic_and_a_role_are_set() -> None:
    full = Parameters.model_validate(GOOD)
    assert "ERROR_INTEGRATION" in "".join(each.sql for each in definitions(full))
    for missing in (["error_topic_arn"], ["error_role_arn"], ["error_topic_arn", "error_role_arn"]):
        some = full.model_copy(update=dict.fromkeys(missing))
        assert "_ERRORS" not in "".join(each.sql for each in definitions(some))


def test_view_of_failed_loads_reads_no_load_older_than_14_days_even_when_the_clocks_go_back() -> None:
    # START_TIME must not be earlier. (Snowflake: "COPY_HISTORY".) DATEADD with days could go back further, because a
    # calendar day can have 25 hours.
    starts = re.findall(
        r"START_TIME => DATEADD\('(\w+)', -(\d+),", (DDL / "20_view_load_failures.sql").read_text()
    )
    assert [unit for unit, _ in starts] == ["minute"] * 2
    assert all(timedelta(minutes=int(number)) < HISTORY_REACH for _, number in starts)


def test_warehouse_ddl_sets_timeouts_for_running_and_queued_statements() -> None:
    ddl = (DDL / "01_warehouse.sql").read_text()
    assert "STATEMENT_TIMEOUT_IN_SECONDS = 3600" in ddl
    assert "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS = 600" in ddl


def test_ddl_file_numbers_are_unique_and_each_object_has_its_own_file() -> None:
    assert len({path.name[:2] for path in FILES}) == len(FILES)
    for definition in definitions(Parameters.model_validate(GOOD)):
        if "_grants_" not in definition.path.name and "_pipes_" not in definition.path.name:
            assert len(definition.statements) == 1, definition.path.name


def test_ddl_replaces_only_views_and_drops_nothing() -> None:
    for path in FILES:
        words = re.sub(r"--.*|'[^']*'", "", path.read_text()).upper()
        assert not re.search(r"\bDROP\b|\bTRUNCATE\b", words), path.name
        (create,) = [line for line in words.splitlines() if line.startswith("CREATE")] or [""]
        if "_view_" in path.name:
            assert create.startswith("CREATE OR REPLACE VIEW"), path.name
            assert "COPY GRANTS" in words, path.name
        elif create and not create.startswith("CREATE OR ALTER FILE FORMAT"):
            assert "IF NOT EXISTS" in create, path.name


def test_python_code_replaces_only_pipes_and_only_in_recreate() -> None:
    package = DDL.parent
    said = {
        path.name: {*found}
        for path in package.rglob("*.py")
        if (found := re.findall(r"CREATE OR REPLACE (\w+)", path.read_text()))
    }
    assert said == {"recreate.py": {"PIPE"}}


def test_pipes_contain_no_casts_and_tables_have_no_default_values() -> None:
    for path in FILES:
        words = re.sub(r"--.*|'[^']*'", "", path.read_text()).upper()
        if "_pipe_" in path.name:
            assert "::" not in words
            assert "CAST(" not in words
        if "_table_" in path.name:
            assert "DEFAULT" not in words
            assert "CURRENT_TIMESTAMP" not in words


def test_every_s3_location_in_the_ddl_ends_with_a_slash() -> None:
    urls = [url for path in FILES for url in re.findall(r"'(s3://[^']*)'", path.read_text())]
    assert len(urls) == 4
    assert all(url.endswith("/") for url in urls)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("COPY INTO a FROM @s", "copy  into A\nfrom @S;", True),
        ("COPY INTO a FROM @s -- why", "COPY INTO a FROM @s", True),
        ("SELECT 'x'", "SELECT 'X'", False),
        ("COPY INTO a FROM @s ON_ERROR = SKIP_FILE", "COPY INTO a FROM @s ON_ERROR = CONTINUE", False),
    ],
)
def test_statements_are_equal_only_if_they_differ_at_most_in_layout_case_or_comments(
    one: str, other: str, same: bool
) -> None:
    assert same_statement(one, other) is same


def test_schemas_with_events_have_managed_access() -> None:
    ddl = {file.name: file.read_text() for file in FILES}
    for name in ("03_schema_raw.sql", "04_schema_staging.sql", "05_schema_marts.sql"):
        assert "WITH MANAGED ACCESS" in ddl[name]
