"""The graph of the dbt models for the DAGs, read from the models' SQL because Airflow's environment has no dbt."""

import graphlib
import re
from pathlib import Path


def models(project: Path) -> dict[str, list[str]]:
    """Return each model with the models that it references, in topological order."""
    sql = {path.stem: path.read_text() for path in (project / "models").rglob("*.sql")}
    parents = {
        name: sorted(set(re.findall(r"""\bref\(\s*['"](\w+)['"]\s*\)""", text)) & set(sql))
        for name, text in sql.items()
    }
    return {name: parents[name] for name in graphlib.TopologicalSorter(parents).static_order()}
