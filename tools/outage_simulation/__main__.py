"""The command line of the simulation: `python -m tools.outage_simulation --help`."""

from pathlib import Path
from typing import Annotated

import typer

from ops import terminal
from tools.outage_simulation.flow import QUEUES, Outage, Part, Simulation, expected_recovery, simulate
from tools.outage_simulation.sizes import sizes

PARTS: tuple[Part, ...] = ("kinesis", "snowpipe")


def row(simulation: Simulation) -> dict[str, object]:
    """Return a simulation's row in the table: the service that is out, the size, the largest backlogs, the greatest
    age of a waiting event and the recovery time (simulated and by formula) in minutes, the number of events that the
    consumer gave up because of their age, and the number of lost events.
    """
    recovered = [simulation.recovered_after(queue) for queue in QUEUES]
    by_formula = expected_recovery(simulation.size, simulation.outage)
    return {
        "out": simulation.outage.part,
        "events_a_second": simulation.size.name,
        **{f"most_{queue}": simulation.largest(queue) for queue in QUEUES},
        "oldest_minutes": round(max(simulation.oldest(queue) for queue in QUEUES) / 60),
        "recovered_minutes": None if None in recovered else round(max(r or 0 for r in recovered) / 60),
        "by_formula_minutes": None if by_formula is None else round(by_formula / 60),
        "given_up": simulation.samples[-1].given_up,
        "lost": simulation.lost,
    }


def _folder(text: str) -> Path:
    """Return the value of an option as a path. Raises BadParameter if it is not an existing folder."""
    if not text or not Path(text).is_dir():
        raise typer.BadParameter(f"{text!r} is not an existing folder")
    return Path(text)


def command(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            metavar="SIZE",
            help=(
                "Simulate only this size: 1k, 100k, 1M, or, without the circuit breaker, 100k-no-breaker or "
                "1M-no-breaker. Can be repeated."
            ),
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(min=1, max=1440, help="Duration of the outage in minutes.")] = 60,
    plots: Annotated[
        Path | None,
        typer.Option(
            parser=_folder,
            metavar="FOLDER",
            help="Write one SVG diagram per service into this folder, which must exist.",
        ),
    ] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Simulate an outage of Kinesis, and one of Snowpipe, at 1k, 100k and 1M events per second."""
    known = sizes()
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"unknown size {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    rows = []
    for part in PARTS:
        outage = Outage(part, seconds=minutes * 60)
        chosen = only or [name for name in known if part == "kinesis" or "no-breaker" not in name]
        simulations = [simulate(known[name], outage) for name in chosen]
        rows += [row(simulation) for simulation in simulations]
        if plots:
            from tools.outage_simulation.plots import draw

            draw(simulations, plots / f"outage-{part}.svg")
    terminal.show_rows(rows, as_json)


if __name__ == "__main__":
    typer.run(command)
