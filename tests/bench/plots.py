"""Draw the growth plots of docs/performance.md from the series that the benchmarks measured."""

from pathlib import Path
from typing import Any

from tests.bench.figures import Points, exponent

# File in docs/images/, title, label of the x axis, and the series with the unit of each y axis.
PLOTS: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "perf-handler",
        "Request by number of events",
        "events in the request",
        (
            ("handler/cpu_ms by events", "CPU, ms"),
            ("handler/peak_mib by events", "memory, MiB"),
            ("handler/calls by events", "calls to AWS"),
        ),
    ),
    (
        "perf-consumer-batch",
        "Batch by number of records",
        "records in the batch",
        (("consumer/cpu_ms by batch", "CPU, ms"), ("consumer/calls by batch", "calls to AWS")),
    ),
    (
        "perf-consumer-devices",
        "Batch of 500 by number of devices",
        "devices",
        (("consumer/cpu_ms by devices", "CPU, ms"), ("consumer/calls by devices", "calls to AWS")),
    ),
    (
        "perf-consumer-table",
        "Batch of 200 by events in the table",
        "events of the batch's pairs in the table",
        (
            ("consumer/cpu_ms by table", "CPU, ms"),
            ("consumer/cpu_ms by table, late events", "CPU of late events, ms"),
            ("consumer/calls by table, late events", "calls for late events"),
        ),
    ),
    (
        "perf-loader",
        "Local loader by backlog and table size",
        "objects loaded, rows loaded",
        (
            ("loader/cpu_s by backlog", "CPU, s"),
            ("loader/cpu_s by rows", "CPU, s"),
            ("loader/peak_mib by rows", "memory, MiB"),
        ),
    ),
    (
        "perf-dbt",
        "Incremental dbt run with 1 % new rows",
        "rows in RAW",
        (("dbt/sql_s by rows", "SQL, s"),),
    ),
)


def draw(series: dict[str, Points], folder: Path) -> None:
    """Draw each plot whose series exist, with logarithmic axes, on which linear growth is a straight line of
    slope 1.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    # Keep text as text and ids deterministic, so that the same series produce the same file.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "milkrun", "font.size": 9})
    for name, title, x_label, panels in PLOTS:
        if all(key in series for key, _ in panels):
            figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 2.8), squeeze=False)
            for axis, (key, unit) in zip(axes[0], panels, strict=True):
                panel(axis, series[key], unit)
            figure.suptitle(title)
            figure.supxlabel(x_label, fontsize=9)
            figure.tight_layout()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)


def panel(axis: Any, points: Points, unit: str) -> None:
    """Draw the points, and through the last one a line with the fitted exponent as its slope."""
    xs, ys = zip(*sorted(points), strict=True)
    k = exponent(points)
    axis.plot(xs, ys, "o", markersize=4, color="#1f4e79")
    axis.plot(xs, [ys[-1] * (x / xs[-1]) ** k for x in xs], "--", linewidth=1, color="#c0504d")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(min(ys) / 2, max(ys) * 2)
    axis.tick_params(which="minor", labelleft=False, labelbottom=False)
    axis.set_title(f"{unit}: x^{k:.2f}", fontsize=9)
