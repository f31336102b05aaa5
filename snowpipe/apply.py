"""Make the warehouse's objects, in the order of the DDL's numbers; again changes nothing."""

from collections.abc import Sequence

from snowpipe.refusal import Refusal
from snowpipe.template import Definition, same_statement
from snowpipe.warehouse import Row, Warehouse


def changed_pipes(warehouse: Warehouse, ddl: Sequence[Definition]) -> list[str]:
    """Pipes that exist with another COPY than the DDL's. IF NOT EXISTS would pass over them in silence."""
    live = {pipe["name"]: pipe["definition"] for pipe in pipes_of(warehouse, ddl)}
    wanted = {d.pipe: d.copy for d in ddl if d.is_pipe}
    return [
        pipe
        for pipe, copy in wanted.items()
        if (running := live.get(pipe.split(".")[2])) is not None and not same_statement(running, copy)
    ]


def pipes_of(warehouse: Warehouse, ddl: Sequence[Definition]) -> list[Row]:
    """SHOW PIPES of the DDL's database; none while there is no such database or schema."""
    database = next(d.pipe.split(".")[0] for d in ddl if d.is_pipe)
    known = {row["name"] for row in warehouse.query("SHOW DATABASES")}
    if database not in known:
        return []
    schemas = {row["name"] for row in warehouse.query(f"SHOW SCHEMAS IN DATABASE {database}")}
    return warehouse.query(f"SHOW PIPES IN SCHEMA {database}.RAW") if "RAW" in schemas else []


def apply(warehouse: Warehouse, ddl: Sequence[Definition], dry_run: bool = False) -> list[Row]:
    """Run the DDL; what was done per file. Looks at the pipes first, so that a refusal leaves all as it was.

    DDL has no transaction in Snowflake: a failure half-way leaves what was made so far; the next run goes on.
    """
    if changed := changed_pipes(warehouse, ddl):
        raise Refusal(
            f"{', '.join(changed)}: the COPY differs from the DDL's, and a pipe's COPY cannot be altered; "
            "run: python -m snowpipe recreate",
            exit_code=1,
        )
    if dry_run:
        return [{"file": d.path.name, "result": f"would run {len(d.statements)} statement(s)"} for d in ddl]
    return [{"file": d.path.name, "result": _run(warehouse, d)} for d in ddl]


def _run(warehouse: Warehouse, definition: Definition) -> str:
    said = ""
    for statement in definition.statements:
        try:
            rows = warehouse.query(statement)
        except Refusal as refusal:
            raise Refusal(f"{definition.path.name}: {refusal}") from refusal
        said = str(rows[0].get("status", "done")) if rows else "done"
    return said
