"""Test that rows are printed as valid JSON."""

import json

import pytest

from cli.json_numbers import finite
from cli.print_rows import show

ROWS = [{"a": float("nan"), "b": [float("inf")], "c": {"d": (float("-inf"), 1.5)}, "e": None}]


def test_non_finite_number_is_printed_as_a_string_in_json_output(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, True)
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed == [{"a": "NaN", "b": ["Infinity"], "c": {"d": ["-Infinity", 1.5]}, "e": None}]
    assert finite(7) == 7
