"""Test how localstack/snowflake/outside/run.py, which runs test suites of other projects, shortens refusal messages."""

from importlib.util import module_from_spec, spec_from_file_location

import pytest

from ops.stage_outputs import ROOT


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (
            "CAST(x AS ARRAY): Cast(this, to=ARRAY) is not among the verified functions, operators and clauses",
            "Cast(this, to=ARRAY)",
        ),
        ("SHOW PARAMETERS LIKE 'QUERY_TAG'", "SHOW PARAMETERS LIKE …"),
        ('Column "A" of table "T_17" is ambiguous', "Column … of table … is ambiguous"),
        ("the statement CREATE FUNCTION (CREATE FUNCTION F() …)", "the statement CREATE FUNCTION"),
        ("GET_DDL(2)", "GET_DDL(2)"),
    ],
)
def test_names_and_details_are_removed_from_the_message_of_a_refusal(refusal: str, reason: str) -> None:
    spec = spec_from_file_location("outside_run", ROOT / "localstack/snowflake/outside/run.py")
    assert spec
    assert spec.loader
    run = module_from_spec(spec)
    spec.loader.exec_module(run)
    assert run.named(refusal) == reason
