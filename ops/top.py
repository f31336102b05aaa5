"""`milkrun top`: the dashboard's panels in a terminal, of the local stack or of a stage.

Numbers of the last minutes come from the functions' canonical log lines, which are what CloudWatch makes its
metrics of, so that a laptop and a stage show the same; what waits where is asked of the services themselves.
"""

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from contract import logs
from ops import redrive, terminal
from ops.outputs import Outputs
from snowpipe.check.pipes import FAILED_LOADS_HOURS, failed_loads_sql

FUNCTIONS = ("ingest", "redrive", "consume", "check")
# Beyond so many lines a look would take longer than the time between two: the figures are then of a part.
MAX_LINES = 5000


@dataclass
class Figures:
    """Sums of the canonical lines' counts, and all their times."""

    sums: Counter[str] = field(default_factory=Counter)
    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    partial: bool = False

    def add(self, line: dict[str, Any]) -> None:
        event = line.get("event")
        if event == logs.EVENTS_INGESTED:
            self.sums["requests"] += 1
            self.sums[f"answered {line.get('status')}"] += 1
        if event == logs.REQUEST_REFUSED:
            self.sums["requests"] += 1
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", ()):
            for metric in directive["Metrics"]:
                name, value = metric["Name"], line[metric["Name"]]
                if metric["Unit"] == "Count":
                    self.sums[name] += value
                else:
                    self.times[name].append(value)
        if event == logs.RECORDS_CONSUMED and "behind_seconds" in line:
            self.times["behind_seconds"].append(line["behind_seconds"])

    def at(self, name: str, percent: float) -> float | None:
        """The nearest-rank percentile; None where nothing was measured."""
        values = sorted(self.times[name])
        return values[max(0, math.ceil(percent / 100 * len(values)) - 1)] if values else None


def lines(outputs: Outputs, stage: str, since: datetime) -> Iterator[dict[str, Any] | None]:
    """The functions' JSON lines since then; None, and the end, where there were too many."""
    client = outputs.aws("logs")
    read = 0
    for function in FUNCTIONS:
        request: dict[str, Any] = {
            "logGroupName": f"/aws/lambda/milkrun-{stage}-{function}",
            "startTime": int(since.timestamp() * 1000),
        }
        while True:
            try:
                page = client.filter_log_events(**request)
            except client.exceptions.ResourceNotFoundException:
                break  # a function that has not run yet
            for entry in page["events"]:
                try:
                    line = json.loads(entry["message"])
                except ValueError:
                    continue
                if isinstance(line, dict):
                    yield line
            read += len(page["events"])
            if read >= MAX_LINES:
                yield None
                return
            if "nextToken" not in page:
                break
            request["nextToken"] = page["nextToken"]


def look(outputs: Outputs, stage: str, minutes: float) -> dict[str, dict[str, Any]]:
    """What each panel shows."""
    figures = Figures()
    for line in lines(outputs, stage, datetime.now(UTC) - timedelta(minutes=minutes)):
        if line is None:
            figures.partial = True
        else:
            figures.add(line)
    sums, sqs = figures.sums, outputs.aws("sqs")
    answers = {name: n for name, n in sorted(sums.items()) if name.startswith("answered ")}
    by_code = {name: n for name, n in sorted(sums.items()) if name.startswith("rejected_")}
    panels: dict[str, dict[str, Any]] = {
        "requests": {"requests": sums["requests"], **answers, "refused": sums["refused"]},
        "answer time, ms": {
            "S3 p50": figures.at("store_ms", 50),
            "S3 p99": figures.at("store_ms", 99),
            "Kinesis p50": figures.at("publish_ms", 50),
            "Kinesis p99": figures.at("publish_ms", 99),
        },
        "events": {n: sums[n] for n in ("accepted", "duplicates", "rejected", "published", "queued")}
        | by_code,
        "lateness, s": {
            "p50": figures.at("lateness_seconds", 50),
            "p99": figures.at("lateness_seconds", 99),
        },
        "consumer": {
            n: sums[n] for n in ("consumed", "visits_changed", "set_aside", "too_old", "orphan_exits")
        }
        | {"behind, s": figures.at("behind_seconds", 100)},
        "redrive": {
            "waiting": redrive.waiting(sqs, outputs.redrive_queue_url),
            "sent again": sums["redriven"],
            "dead letters": redrive.waiting(sqs, outputs.dead_letter_queue_url),
        },
        "snowpipe": _pipes(outputs),
    }
    if figures.partial:
        panels["note"] = {"only the first lines": MAX_LINES}
    return panels


def _pipes(outputs: Outputs) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with outputs.warehouse() as warehouse:
        for pipe in ("EVENTS_PIPE", "REJECTED_PIPE"):
            name = f"{outputs.database}.RAW.{pipe}"
            [row] = warehouse.query(f"SELECT SYSTEM$PIPE_STATUS('{name}') AS status")
            status = json.loads(row["status"])
            found[pipe] = f"{status['executionState']}, {status.get('pendingFileCount', 0)} waiting"
        [row] = warehouse.query(failed_loads_sql(outputs.database))
        found[f"failed loads, {FAILED_LOADS_HOURS} h"] = row["n"]
    return found


def drawn(panels: dict[str, dict[str, Any]], stage: str, minutes: float) -> Panel:
    boxes = []
    for title, rows in panels.items():
        table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
        for name, value in rows.items():
            table.add_row(name, "–" if value is None else terminal.cell(value))
        boxes.append(Panel(table, title=title, width=42))
    now = f"{datetime.now(UTC):%H:%M:%S}Z"
    return Panel(Columns(boxes), title=f"milkrun {stage}, last {minutes:g} minutes, {now}, Ctrl-C ends")


def command(
    context: typer.Context,
    *,
    minutes: Annotated[float, typer.Option(min=0.1, max=10_080, help="How far back the figures reach.")] = 5,
    every: Annotated[
        float, typer.Option(min=1, max=terminal.MAX_SECONDS, help="Seconds between two looks.")
    ] = 5,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """The whole flow at a glance, live: requests, events, consumer, redrive, Snowpipe (wakes its warehouse)."""
    outputs = terminal.outputs_of(context, stage)
    panels = look(outputs, stage, minutes)
    if as_json:
        terminal.print_json(panels)
        return
    if once:
        terminal.out.print(drawn(panels, stage, minutes))
        return
    try:
        with Live(drawn(panels, stage, minutes), console=terminal.out, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(drawn(look(outputs, stage, minutes), stage, minutes), refresh=True)
    except KeyboardInterrupt:
        return
