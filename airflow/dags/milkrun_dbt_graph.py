"""The dependency graph of the dbt models, read from their SQL because Airflow's environment has no dbt."""

import graphlib
import re
from pathlib import Path


def models(project: Path) -> dict[str, list[str]]:
    """Return the models in topological order, each with the models that it references."""
    sql = {path.stem: path.read_text() for path in (project / "models").rglob("*.sql")}
    parents = {
        name: sorted(set(re.findall(r"""\bref\(\s*['"](\w+)['"]\s*\)""", text)) & set(sql))
        for name, text in sql.items()
    }
    return {name: parents[name] for name in graphlib.TopologicalSorter(parents).static_order()}
