"""Print messages to stderr, and rows to stdout as JSON or as a table."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

import typer

from cli.json_numbers import finite


def tell(line: str) -> None:
    """Print a message to stderr, so that stdout contains only JSON if --json is given."""
    typer.echo(line, err=True)


def shown(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def show(rows: Sequence[Mapping[str, object]], as_json: bool, none: str = "no rows") -> None:
    """Print rows as a JSON list, as a table, or as one block per row if the table is too wide for the terminal."""
    if as_json:
        typer.echo(json.dumps(finite(rows), default=shown, indent=2, allow_nan=False))
        return
    if not rows:
        typer.echo(none)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.measure import Measurement
    from rich.table import Table

    from cli.printable import printable

    texts = [["" if value is None else printable(str(value)) for value in row.values()] for row in rows]
    console, table = Console(), Table(*map(escape, rows[0]))
    for text in texts:
        table.add_row(*map(escape, text))
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
        console.print(table)
        return
    for text in texts:
        typer.echo(
            "\n".join(
                f"{name:<{max(map(len, rows[0]))}}  {cell}" for name, cell in zip(rows[0], text, strict=True)
            )
        )
        typer.echo()
