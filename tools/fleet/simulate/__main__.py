"""The command: see `python -m tools.fleet.simulate --help`."""

from pathlib import Path
from typing import Annotated

import typer

from ops import terminal
from tools.fleet.simulate.flow import LINES, Outage, Part, Story, expected_recovery, tell
from tools.fleet.simulate.sizes import sizes

PARTS: tuple[Part, ...] = ("kinesis", "snowpipe")


def row(story: Story) -> dict[str, object]:
    """What a person asks: where did it pile up, how old did it get, when was it over, was anything lost."""
    recovered = [story.recovered_after(line) for line in LINES]
    by_formula = expected_recovery(story.size, story.outage)
    return {
        "out": story.outage.part,
        "events_a_second": story.size.name,
        **{f"most_{line}": story.most(line) for line in LINES},
        "oldest_minutes": round(max(story.oldest(line) for line in LINES) / 60),
        "recovered_minutes": None if None in recovered else round(max(r or 0 for r in recovered) / 60),
        "by_formula_minutes": None if by_formula is None else round(by_formula / 60),
        "given_up": story.looks[-1].given_up,
        "lost": story.lost,
    }


def _folder(text: str) -> Path:
    """Parse an option that names a folder."""
    if not text or not Path(text).is_dir():
        raise typer.BadParameter(f"{text!r} is not a folder that exists")
    return Path(text)


def command(
    *,
    only: Annotated[list[str] | None, typer.Option("--size", help="1k, 100k, 1M, `100k, patient`.")] = None,
    minutes: Annotated[float, typer.Option(min=1, max=1440, help="How long the part is gone.")] = 60,
    plots: Annotated[
        Path | None, typer.Option(parser=_folder, metavar="FOLDER", help="A folder for SVGs, one per part.")
    ] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Simulate an hour without Kinesis or Snowpipe at 1k, 100k and 1M events per second.

    The table shows backlog and recovery.
    """
    known = sizes()
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"no size {', '.join(sorted(unknown))}: {', '.join(known)}")
    rows = []
    for part in PARTS:
        outage = Outage(part, seconds=minutes * 60)
        chosen = only or [name for name in known if part == "kinesis" or "patient" not in name]
        stories = [tell(known[name], outage) for name in chosen]
        rows += [row(story) for story in stories]
        if plots:
            from tools.fleet.simulate.plots import draw

            draw(stories, plots / f"outage-{part}.svg")
    terminal.show_rows(rows, as_json)


if __name__ == "__main__":
    typer.run(command)
