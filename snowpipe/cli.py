"""`python -m snowpipe`: the warehouse's commands."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from snowpipe import apply as applying
from snowpipe import archive, template, transform, warehouse
from snowpipe.refusal import Refusal
from snowpipe.settings import Settings, load
from snowpipe.warehouse import Row, Snowflake

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Outputs = Annotated[
    Path | None, typer.Option(help="A stack's outputs.json (default: the environment's, else .local's)")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


@dataclass(frozen=True)
class Shell:
    """What a command gets from outside."""

    environment: Mapping[str, str]

    def settings(self, outputs: Path | None) -> Settings:
        return load(self.environment, outputs)

    @contextmanager
    def warehouse(self, outputs: Path | None) -> Iterator[tuple[Settings, Snowflake]]:
        known = self.settings(outputs)
        with warehouse.connect(known.connection) as session:
            yield known, session


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Exit code: 0 done, 1 the answer is no, 2 could not look."""
    try:
        return app(list(arguments), standalone_mode=False, obj=Shell(environment)) or 0
    except Refusal as refusal:
        typer.echo(str(refusal), err=True)
        return refusal.exit_code
    except typer.Abort:
        return 130
    except Exception as problem:
        # click's own complaint about the arguments; whatever else is a bug, and shows itself
        if not hasattr(problem, "format_message"):
            raise
        typer.echo(problem.format_message(), err=True)
        return 2


def plain(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def show(rows: Sequence[Row], as_json: bool, title: str = "") -> None:
    """Rows as a table, or as a JSON list."""
    if as_json:
        typer.echo(json.dumps(rows, default=plain, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    if not rows:
        typer.echo(f"{title}: none" if title else "no rows")
        return
    table = Table(*rows[0], title=title or None)
    for row in rows:
        table.add_row(*("" if value is None else f"{value}" for value in row.values()))
    Console().print(table)


@app.command()
def apply(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option(help="Look, and say what would run; change nothing")] = False,
    sql: Annotated[bool, typer.Option(help="Print the statements and connect to nothing")] = False,
) -> None:
    """Make every object of the DDL that is not there yet. Refuses when a pipe's COPY has changed."""
    shell: Shell = context.obj
    ddl = template.definitions(archive.parameters(shell.settings(outputs)))
    if sql:
        for definition in ddl:
            typer.echo(f"-- {definition.path.name}\n{definition.sql}")
        return
    with shell.warehouse(outputs) as (_, session):
        show(applying.apply(session, ddl, dry_run), as_json)


@app.command()
def query(context: typer.Context, sql: str, outputs: Outputs = None, as_json: Json = False) -> None:
    """Run one statement in the stage's database and print its rows."""
    shell: Shell = context.obj
    with shell.warehouse(outputs) as (known, session):
        session.query(f"USE DATABASE {known.connection.database}")
        show(session.query(sql), as_json)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def dbt(context: typer.Context, outputs: Outputs = None) -> None:
    """Run dbt on the stage's warehouse; arguments are dbt's own, such as `build --select geofence_visits`."""
    shell: Shell = context.obj
    raise typer.Exit(transform.dbt(context.args, shell.settings(outputs), shell.environment))
