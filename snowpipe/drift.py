"""Compare the deployed objects with the DDL and list the differences.

CREATE … IF NOT EXISTS ignores the properties of an existing object. `differences` reads every object of the
DDL with SHOW or DESC, which need no running warehouse (Snowflake: "SHOW <objects>"). Each difference names
the statement or command that repairs it, except that a table must be changed manually. `apply` runs only the statements
that cannot lose or redirect data. Comments are not compared.
"""

import json
import re
from collections.abc import Iterator, Sequence

from snowpipe.ddl_files import Definition, same_statement
from snowpipe.ddl_objects import Object, objects
from snowpipe.grants import Difference, grant_differences
from snowpipe.warehouse import Row, Warehouse

APPLY = "milkrun warehouse apply"
RECREATE = "milkrun warehouse recreate"
BY_HAND = "change the table manually, because the change may affect its data"
NEVER_CHANGE = {"COMMENT", "TYPE", "DIRECTION", "STORAGE_PROVIDER", "NOTIFICATION_PROVIDER"}
"""Properties that are not compared: comments, and the kind of an integration, which ALTER cannot change."""
SHOWN_AS = {"TEXT": "VARCHAR", "FIXED": "NUMBER"}
# The emulated Snowflake's SHOW COLUMNS shows both of these types as TIMESTAMP_TZ.
ZONED = {"TIMESTAMP_LTZ", "TIMESTAMP_TZ"}


def differences(warehouse: Warehouse, ddl: Sequence[Definition]) -> list[Difference]:
    """Return the differences between the deployed objects and the DDL, in the order of the DDL, with grants last."""
    wanted = objects(ddl)
    found: list[Difference] = []
    gone: set[str] = set()
    for each in wanted:
        if each.home in gone:
            gone.add(each.name)
            found.append(_missing(each))
            continue
        row = shown(warehouse, each)
        if row is None:
            gone.add(each.name)
            found.append(_missing(each))
        else:
            found += _compare(warehouse, each, row)
    present = [each for each in wanted if each.name not in gone]
    return [*found, *grant_differences(warehouse, ddl, present)]


def _missing(each: Object) -> Difference:
    return Difference(str(each), "object", "missing", each.definition, APPLY)


def shown(warehouse: Warehouse, each: Object) -> Row | None:
    """Return the object's row from SHOW; None if the object does not exist or the session's role may not see it."""
    within = f" IN {each.home_kind} {each.home}" if each.home else ""
    plural = "SCHEMAS" if each.kind == "SCHEMA" else f"{each.kind}S"
    rows = warehouse.query(f"SHOW {plural} LIKE '{each.base}'{within}")
    # LIKE ignores case, and _ matches any character.
    return next((row for row in rows if row["name"] == each.base), None)


def _compare(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    compare = {
        "WAREHOUSE": _warehouse,
        "SCHEMA": _schema,
        "FILE FORMAT": _file_format,
        "TABLE": _table,
        "STORAGE INTEGRATION": _integration,
        "NOTIFICATION INTEGRATION": _integration,
        "STAGE": _stage,
        "PIPE": _pipe,
        "VIEW": _view,
        "RESOURCE MONITOR": _monitor,
    }.get(each.kind)
    if compare:
        yield from compare(warehouse, each, row)


def _warehouse(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    parameters = warehouse.query(f"SHOW PARAMETERS IN WAREHOUSE {each.name}")
    deployed = {key.upper(): row[key] for key in ("auto_suspend", "auto_resume", "resource_monitor")}
    deployed |= {parameter["key"]: parameter["value"] for parameter in parameters}
    # SHOW says X-Small, CREATE says XSMALL ("CREATE WAREHOUSE", WAREHOUSE_SIZE).
    deployed["WAREHOUSE_SIZE"] = str(row["size"]).replace("-", "")
    for name, wanted in each.properties.items():
        if name not in ("COMMENT", "INITIALLY_SUSPENDED") and not _same(deployed.get(name), wanted):
            yield Difference(
                str(each),
                name,
                _text(deployed.get(name)),
                str(wanted),
                f"ALTER WAREHOUSE {each.name} SET {name} = {wanted}",
                # An operator may have enlarged the warehouse or disabled its automatic start temporarily.
                automatic=name not in ("WAREHOUSE_SIZE", "AUTO_RESUME"),
            )


def _schema(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    del warehouse
    managed = "MANAGED ACCESS" in str(row["options"] or "")
    if each.managed and not managed:
        repair = f"ALTER SCHEMA {each.name} ENABLE MANAGED ACCESS"
        yield Difference(str(each), "MANAGED ACCESS", "off", "on", repair, automatic=True)


def _file_format(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    del row
    deployed = _described(warehouse, each)
    for name, wanted in each.properties.items():
        if name != "COMMENT" and not _same(deployed.get(name), wanted):
            yield Difference(str(each), name, _text(deployed.get(name)), str(wanted), APPLY)


def _table(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    del row
    columns = {
        column["column_name"]: _type_of(column)
        for column in warehouse.query(f"SHOW COLUMNS IN TABLE {each.name}")
    }
    for name in (*each.columns, *(column for column in columns if column not in each.columns)):
        deployed, wanted = columns.get(name, "missing"), each.columns.get(name, "no such column")
        if deployed != wanted and not {_type(deployed), _type(wanted)} <= ZONED:
            yield Difference(str(each), f"column {name}", deployed, wanted, BY_HAND)


def _type_of(column: Row) -> str:
    """Return a column's type, such as `NUMBER NOT NULL`, without precision and length, which are not compared."""
    name = str(json.loads(column["data_type"])["type"])
    nullable = str(column["null?"]).lower() == "true"
    return SHOWN_AS.get(name, name) + ("" if nullable else " NOT NULL")


def _type(described: str) -> str:
    return described.partition(" ")[0]


def _integration(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    del row
    deployed = _described(warehouse, each)
    for name, wanted in each.properties.items():
        if name in NEVER_CHANGE or _same(deployed.get(name), wanted):
            continue
        value = f"({', '.join(map(_quoted, wanted))})" if isinstance(wanted, tuple) else _quoted(wanted)
        yield Difference(
            str(each),
            name,
            _text(deployed.get(name)),
            ",".join(wanted) if isinstance(wanted, tuple) else wanted,
            f"ALTER {each.kind} {each.name} SET {name} = {value}",
            # Other locations, or another external id, may also come from a wrong setting in this shell. Disabling the
            # integration cuts Snowflake off from the bucket, so only a person may enable it again.
            automatic=name in ("STORAGE_AWS_ROLE_ARN", "AWS_SNS_TOPIC_ARN", "AWS_SNS_ROLE_ARN"),
        )


def _stage(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    deployed = {"URL": row["url"], "STORAGE_INTEGRATION": row["storage_integration"]}
    deployed["FILE_FORMAT"] = _described(warehouse, each).get("FORMAT_NAME", "").replace('"', "")
    for name, wanted in each.properties.items():
        if name != "COMMENT" and not _same(deployed.get(name), wanted):
            yield Difference(
                str(each),
                name,
                _text(deployed.get(name)),
                str(wanted),
                f"ALTER STAGE {each.name} SET {name} = {_set(name, wanted)}, then {RECREATE}",
            )


def _set(name: str, wanted: str | tuple[str, ...]) -> str:
    if name == "FILE_FORMAT":
        return f"(FORMAT_NAME = '{wanted}')"
    return _quoted(str(wanted)) if name == "URL" else str(wanted)


def _pipe(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    del warehouse
    if not same_statement(row["definition"], each.body):
        yield Difference(str(each), "COPY", _line(row["definition"]), _line(each.body), RECREATE)
    wanted = each.properties.get("ERROR_INTEGRATION")
    if wanted and not _same(row["error_integration"], wanted):
        repair = f"ALTER PIPE {each.name} SET ERROR_INTEGRATION = {wanted}"
        deployed = _text(row["error_integration"])
        yield Difference(str(each), "ERROR_INTEGRATION", deployed, str(wanted), repair, automatic=True)


def _view(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    del warehouse
    # `text` is the CREATE statement as it was run (Snowflake: "SHOW VIEWS").
    deployed = re.sub(r"\A.*?^AS$", "", row["text"], count=1, flags=re.DOTALL | re.MULTILINE)
    if not same_statement(deployed, each.body):
        yield Difference(str(each), "query", _line(deployed), _line(each.body), APPLY)


def _monitor(warehouse: Warehouse, each: Object, row: Row) -> Iterator[Difference]:
    del warehouse
    deployed, wanted = row["credit_quota"], each.properties["CREDIT_QUOTA"]
    if float(deployed or 0) != float(str(wanted)):
        repair = f"ALTER RESOURCE MONITOR {each.name} SET CREDIT_QUOTA = {wanted}"
        yield Difference(str(each), "CREDIT_QUOTA", _text(deployed), str(wanted), repair, automatic=True)


def _described(warehouse: Warehouse, each: Object) -> dict[str, str]:
    kind = "INTEGRATION" if each.kind.endswith("INTEGRATION") else each.kind
    rows = warehouse.query(f"DESC {kind} {each.name}")
    return {row["property"]: str(row["property_value"]) for row in rows}


def _same(deployed: object, wanted: str | tuple[str, ...]) -> bool:
    """Return whether a deployed value equals the DDL's value, ignoring a text's case and a list's order."""
    text = _text(deployed)
    if isinstance(wanted, tuple):
        return sorted(text.split(",")) == sorted(wanted)
    return text.upper() == wanted.upper()


def _text(value: object) -> str:
    return "null" if value in (None, "") else str(value)


def _quoted(value: str) -> str:
    return value if value.upper() in ("TRUE", "FALSE") else f"'{value}'"


def _line(sql: str) -> str:
    line = " ".join(sql.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
