"""Which dbt models there are and what each is built from, by their SQL: the graph needs no dbt here."""

import graphlib
import re
from pathlib import Path


def models(project: Path) -> dict[str, list[str]]:
    """Each model with the models it refers to, in an order that can be run."""
    sql = {path.stem: path.read_text() for path in (project / "models").rglob("*.sql")}
    parents = {
        name: sorted(set(re.findall(r"""\bref\(\s*['"](\w+)['"]\s*\)""", text)) & set(sql))
        for name, text in sql.items()
    }
    return {name: parents[name] for name in graphlib.TopologicalSorter(parents).static_order()}
