"""Test that the tests named in compatibility.md exist."""

import ast
from pathlib import Path

HERE = Path(__file__).parent
DOC = HERE.parent / "compatibility.md"


def named_in_the_tree() -> set[str]:
    trees = [ast.parse(file.read_text()) for file in HERE.glob("test_*.py")]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_named_in_compatibility_md_exists() -> None:
    named = {word for word in DOC.read_text().split("`") if word.startswith("test_")}
    assert len(named) > 40
    assert named - named_in_the_tree() == set()
