"""Make the warehouse's objects, in the order of the DDL's numbers; again changes nothing."""

from collections.abc import Sequence

from snowpipe.refusal import Refusal
from snowpipe.template import Definition, same_statement
from snowpipe.warehouse import Row, Warehouse


def changed_pipes(warehouse: Warehouse, ddl: Sequence[Definition]) -> list[str]:
    """Pipes that exist with another COPY than the DDL's. IF NOT EXISTS would pass over them in silence."""
    live = live_copies(warehouse, ddl)
    return [
        d.pipe
        for d in ddl
        if d.is_pipe and d.pipe in live and not same_statement(live[d.pipe], d.copy_statement)
    ]


def live_copies(warehouse: Warehouse, ddl: Sequence[Definition]) -> dict[str, str]:
    """COPY statements by pipe; none while there is no such database or schema."""
    database = next(d.pipe.split(".")[0] for d in ddl if d.is_pipe)
    databases = {row["name"] for row in warehouse.query("SHOW DATABASES")}
    if database not in databases:
        return {}
    schemas = {row["name"] for row in warehouse.query(f"SHOW SCHEMAS IN DATABASE {database}")}
    if "RAW" not in schemas:
        return {}
    rows = warehouse.query(f"SHOW PIPES IN SCHEMA {database}.RAW")
    return {f"{database}.RAW.{row['name']}": row["definition"] for row in rows}


def refuse_changed_pipes(warehouse: Warehouse, ddl: Sequence[Definition]) -> None:
    if changed := changed_pipes(warehouse, ddl):
        raise Refusal(
            f"{', '.join(changed)}: the COPY differs from the DDL's, and a pipe's COPY cannot be altered; "
            "run: milkrun warehouse recreate",
            exit_code=1,
        )


def apply(warehouse: Warehouse, ddl: Sequence[Definition], dry_run: bool = False) -> list[Row]:
    """Run the DDL; what was done per file. Looks at the pipes first, so that a refusal leaves all as it was.

    DDL has no transaction in Snowflake: a failure half-way leaves what was made so far; the next run goes on.
    """
    refuse_changed_pipes(warehouse, ddl)
    if dry_run:
        return [{"file": d.path.name, "result": f"would run {len(d.statements)} statement(s)"} for d in ddl]
    return run(warehouse, ddl)


def run(warehouse: Warehouse, ddl: Sequence[Definition]) -> list[Row]:
    return [{"file": d.path.name, "result": _run(warehouse, d)} for d in ddl]


def _run(warehouse: Warehouse, definition: Definition) -> str:
    said = ""
    for statement in definition.statements:
        try:
            rows = warehouse.query(statement)
        except Refusal as refusal:
            raise Refusal(f"{definition.path.name}: {refusal}", refusal.exit_code) from refusal
        said = str(rows[0].get("status", "done")) if rows else "done"
    return said
