"""Write docs/performance.md from performance.template.md and the figures of a run.

`{{handler/naive@100}}` is replaced by the ratio or rate of that name with two decimals, or in the format after a bar
(`{{loader/rows|,.0f}}`). A figure that has not been measured becomes a dash. The tables of goals, growth
and the handler's memory are generated here.
"""

import importlib.metadata
import re
from pathlib import Path

from tests.bench import plots
from tests.bench.figures import Figures, Parts, Points, exponent, machine
from tests.bench.goals import CEILINGS, FLOORS, RATIOS

ROOT = Path(__file__).parents[2]
TEMPLATE = Path(__file__).with_name("performance.template.md")
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
# A larger exponent is reported as worse than linear. Between 1 and this value, growth is linear within the noise.
LINEAR = 1.1
# The page's descriptions of the bodies that tests/bench/handler.py builds, by the names used there.
REQUESTS = {
    "500 events": "500 events of 8 kB",
    "empty arrays": "63 events full of empty arrays",
    "small objects": "63 events full of small objects",
    "one huge event": "one event full of empty arrays",
    "invalid array": "63 events full of empty arrays, after a `NaN`",
    "too many events": "1.4 million empty objects",
    "padding": "500 events of 8 kB, padded with spaces to 4 MiB",
}
DBT_PLOT = "![dbt](images/perf-dbt.svg)"
PACKAGES = ("boto3", "pydantic", "msgspec", "aws-lambda-powertools", "urllib3", "isal", "moto", "duckdb")


def write(parts: Parts, by_hand: Parts, whole: Figures) -> None:
    """Write the page and its plots.

    `parts` holds the latest result of each default part, `by_hand` the results of the parts that run only if `--only`
    names them, and `whole` the figures of both.
    """
    known = {**whole.ratios, **whole.rates}
    made = {
        "at": max((part["at"] for part in parts.values()), default="never")[:16].replace("T", " ") + " UTC",
        "machine": machine(),
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "minutes": f"{sum(part['seconds'] for part in parts.values()) / 60:.0f}",
        "load": load([part["load"] for part in parts.values()]),
        "by_hand": "; ".join(
            f"`{name}` at {part['at'][:16].replace('T', ' ')} UTC, load average {part['load']:.0f}"
            for name, part in by_hand.items()
        ),
        "goals": goals(known),
        "growth": growth(whole.series),
        "memory": memory(known),
        "dbt_plot": DBT_PLOT
        if "dbt/sql_s by rows" in whole.series
        else "There is no plot of dbt, because its benchmark has not run yet.",
    }

    def filled(found: re.Match[str]) -> str:
        name, _, how = found[1].partition("|")
        if name in made:
            return str(made[name])
        return format(known[name], how or ".2f") if name in known else "–"

    PAGE.write_text(re.sub(r"\{\{([^}]+)\}\}", filled, TEMPLATE.read_text()))
    IMAGES.mkdir(exist_ok=True)
    plots.draw(whole.series, IMAGES)


def load(averages: list[float]) -> str:
    """Return the range of load averages during the run; an otherwise idle machine has a load average of about 1."""
    return f"{min(averages):.0f} to {max(averages):.0f}" if averages else "–"


def goals(known: dict[str, float]) -> str:
    rows = []
    for sign, wanted in (("≤", (*RATIOS, *CEILINGS)), ("≥", FLOORS)):
        for name, goal in wanted:
            if name in known:
                met = known[name] <= goal if sign == "≤" else known[name] >= goal
                found = f"{known[name]:,.2f}" if known[name] < 100 else f"{known[name]:,.0f}"
                rows.append(f"| `{name}` | {found} | {sign} {goal:g} | {'met' if met else '**missed**'} |")
    return "\n".join(["| | measured | goal | |", "|---|---|---|---|", *rows])


def growth(series: dict[str, Points]) -> str:
    rows = []
    for name, points in series.items():
        if len(points) < 2:
            continue
        k = exponent(points)
        (first_x, first), (last_x, last) = sorted(points)[0], sorted(points)[-1]
        rows.append(
            f"| {name} | {first:.3g} (x = {first_x:,.0f}) | {last:.3g} (x = {last_x:,.0f}) | {k:.2f} | {grows(k)} |"
        )
    return "\n".join(
        ["| y by x | y at the smallest x | y at the largest x | exponent | |", "|---|---|---|---|---|", *rows]
    )


def grows(k: float) -> str:
    if k > LINEAR:
        return "**worse than linear**"
    return "linear" if k > 0.85 else "less than linear" if k > 0.1 else "flat"


def memory(known: dict[str, float]) -> str:
    """Return the table of the handler's peak memory. A figure's name has the response's status in brackets."""
    rows = [
        f"| {REQUESTS.get(found[1], found[1])} | {found[2]} | {mib:.0f} |"
        for name, mib in known.items()
        if (found := re.fullmatch(r"handler/peak_mib (.+) \((\d+)\)", name))
    ]
    return "\n".join(["| body of about 4 MiB | status | MiB |", "|---|---|---|", *rows])
