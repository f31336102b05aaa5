"""Create missing warehouse objects in the order of the numbered DDL files, and update existing ones.

Views are replaced with COPY GRANTS, because Snowflake cannot alter a view's query (Snowflake: "CREATE VIEW",
CREATE OR ALTER VIEW). Finally, `apply` repairs the other differences that a statement can repair without
risk to data; `milkrun warehouse diff` lists the rest.
"""

from collections.abc import Sequence

from cli.counts import count
from cli.refusal import Refusal
from snowpipe.ddl_files import Definition, same_statement
from snowpipe.ddl_objects import objects
from snowpipe.drift import differences
from snowpipe.warehouse import MissingObject, Row, Warehouse


def changed_pipes(warehouse: Warehouse, ddl: Sequence[Definition]) -> list[str]:
    """Return the names of the deployed pipes whose COPY statement differs from the one in the DDL.

    CREATE PIPE IF NOT EXISTS would ignore the difference.
    """
    live = live_copies(warehouse, ddl)
    return [
        d.pipe
        for d in ddl
        if d.is_pipe and d.pipe in live and not same_statement(live[d.pipe], d.copy_statement)
    ]


def live_copies(warehouse: Warehouse, ddl: Sequence[Definition]) -> dict[str, str]:
    """Return the COPY statement of each deployed pipe, keyed by the pipe's fully qualified name.

    The result is empty if the database or its schema RAW does not exist.
    """
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
            (
                f"the COPY statement of {', '.join(changed)} differs from the DDL, and Snowflake cannot "
                "alter it. Run: milkrun warehouse recreate"
            ),
            exit_code=1,
        )


def refuse_another_bucket(warehouse: Warehouse, ddl: Sequence[Definition]) -> None:
    """Raise Refusal if a deployed Snowflake stage reads from a URL other than the configured one.

    That happens, for example, if MILKRUN_BUCKET names the bucket of another deployment.
    """
    for each in objects(ddl):
        if each.kind != "STAGE":
            continue
        try:
            rows = warehouse.query(f"SHOW STAGES LIKE '{each.base}' IN SCHEMA {each.home}")
        except MissingObject:
            return
        for row in rows:
            if row["name"] == each.base and row["url"] != each.properties["URL"]:
                raise Refusal(
                    (
                        f"{each} reads {row['url']}, but the settings specify {each.properties['URL']}. Set "
                        "MILKRUN_BUCKET to the bucket of the deployed stage; if the bucket has changed, see: "
                        "milkrun warehouse diff"
                    ),
                    exit_code=1,
                )


def apply(warehouse: Warehouse, ddl: Sequence[Definition], dry_run: bool = False) -> list[Row]:
    """Run the DDL and update existing objects; return one row per DDL file and one per updated property.

    Pipes and stages are checked first, so that a refused run changes nothing. Snowflake cannot roll back DDL:
    after a failure, the objects created so far remain, and the next run continues from there. With `dry_run`,
    the rows say what would run, and nothing changes.
    """
    refuse_another_bucket(warehouse, ddl)
    refuse_changed_pipes(warehouse, ddl)
    if dry_run:
        planned = [
            {"file": d.path.name, "result": f"would run {count(len(d.statements), 'statement')}"} for d in ddl
        ]
        changes = [each for each in differences(warehouse, ddl) if each.automatic]
        return planned + [{"file": each.object, "result": f"would run {each.repair}"} for each in changes]
    return run(warehouse, ddl) + bring_up_to_date(warehouse, ddl)


def bring_up_to_date(warehouse: Warehouse, ddl: Sequence[Definition]) -> list[Row]:
    """Run the repair statements that can neither lose nor redirect data; return a row per statement."""
    changed = [each for each in differences(warehouse, ddl) if each.automatic]
    for each in changed:
        warehouse.query(each.repair)
    return [
        {"file": each.object, "result": f"changed {each.what} from {each.deployed} to {each.ddl}"}
        for each in changed
    ]


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
