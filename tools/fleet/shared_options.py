"""The command-line options that `milkrun demo` and `milkrun send` share."""

from pathlib import Path
from typing import Annotated

import typer

from ops import terminal

EventsFile = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="Send the events of this file (NDJSON, plain or gzipped) instead of sample traffic.",
    ),
]
Trucks = Annotated[int, typer.Option(min=1, help="Number of trucks in the sample traffic.")]
Farms = Annotated[int, typer.Option(min=1, help="Number of farms in the sample traffic.")]
Seed = Annotated[
    int, typer.Option(help="Seed of the sample traffic; equal seeds produce the same collection rounds.")
]


def refuse_with_a_file(context: typer.Context, *options: str) -> None:
    """Raise typer.BadParameter if one of these options was given, because they have no effect with a file of events."""
    given = ", ".join(f"--{option}" for option in options if terminal.is_given(context, option))
    if given:
        raise typer.BadParameter(f"{given} can be used only for sample traffic, not for a file of events")
