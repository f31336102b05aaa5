"""Nothing writes NaN or Infinity into JSON: Python's json does so by default, and no other reader takes it."""

import ast
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from snowpipe.cli import show
from snowpipe.finite import finite

ROOT = Path(__file__).parents[3]


def writers() -> Iterator[tuple[str, int, bool]]:
    """Every call of json.dumps and json.dump outside tests: file, line, and whether it refuses such numbers."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in listed:
        if "tests" in Path(name).parts or name.endswith("/testing.py") or not (ROOT / name).exists():
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="json"), attr="dumps" | "dump"), keywords=given
                ):
                    strict = any(
                        k.arg == "allow_nan" and isinstance(k.value, ast.Constant) and k.value.value is False
                        for k in given
                    )
                    yield name, node.lineno, strict


def test_every_writer_of_json_refuses_nan_and_infinity() -> None:
    found = list(writers())
    assert len(found) > 30
    assert [f"{name}:{line}" for name, line, strict in found if not strict] == []


ROWS = [{"a": float("nan"), "b": [float("inf")], "c": {"d": (float("-inf"), 1.5)}, "e": None}]


def test_a_number_that_json_cannot_say_is_printed_as_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, True)
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed == [{"a": "NaN", "b": ["Infinity"], "c": {"d": ["-Infinity", 1.5]}, "e": None}]
    assert finite(7) == 7
