"""Test that each call of json.dump or json.dumps outside the tests rejects NaN and Infinity.

By default, these functions write both, but other JSON parsers reject them.
"""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]


def writers() -> Iterator[tuple[str, int, bool]]:
    """Yield the file and line of each call to json.dump or json.dumps outside the tests, and whether the call
    sets allow_nan=False.
    """
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
        text = (ROOT / name).read_text()
        for node in ast.walk(ast.parse(text)) if "json.dump" in text else ():
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="json"), attr="dumps" | "dump"), keywords=given
                ):
                    strict = any(
                        k.arg == "allow_nan" and isinstance(k.value, ast.Constant) and k.value.value is False
                        for k in given
                    )
                    yield name, node.lineno, strict


def test_every_json_dump_call_rejects_nan_and_infinity() -> None:
    found = list(writers())
    assert len(found) > 30
    assert [f"{name}:{line}" for name, line, strict in found if not strict] == []
