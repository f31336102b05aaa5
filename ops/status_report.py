"""The report of `milkrun status`: whether the stage is healthy and, if not, what is wrong and which command to run.

All sources are queried concurrently, each for at most BUDGET_SECONDS. If a source does not answer, the report
says what is therefore unknown, and the other sources are not delayed.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from cli.deadline import started
from ops import terminal
from snowpipe import pipe_health

BUDGET_SECONDS = 5.0
RUNBOOK = "docs/runbook.md"

# The alarms of serverless/alarms.js that page somebody. A problem whose runbook section has the name of such an alarm
# is a FAIL, any other problem is a WARN.
PAGES = frozenset(
    {
        "api-5xx",
        "no-traffic",
        "ingest-errors",
        "ingest-throttled",
        "dead-letters",
        "iterator-age-hour",
        "consume-stopped",
        "given-up-batches",
        "lost-batches",
        "set-aside-share",
        "archive-undelivered",
    }
)

type Level = Literal["OK", "WARN", "FAIL"]
LEVELS: Sequence[Level] = ("OK", "WARN", "FAIL")
_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one part of a stage, such as the stream or the marts.

    `cause` describes the state, `next` is the command to run next, and `section` is an anchor in the runbook.
    """

    part: str
    level: Level
    cause: str
    since: datetime | None = None
    next: str = ""
    section: str = ""


def problem(part: str, section: str, cause: str, next: str, since: datetime | None = None) -> Finding:
    """Return a finding: FAIL if the alarm with this runbook section wakes somebody, otherwise WARN."""
    return Finding(part, "FAIL" if section in PAGES else "WARN", cause, since, next, section)


@dataclass(frozen=True, slots=True)
class Source:
    """A store or service that is queried for the state of its parts.

    `unknown` says which facts are unknown, or what happens meanwhile, if the source does not answer.
    """

    name: str
    parts: tuple[str, ...]
    look: Callable[[], Iterable[Finding]]
    unknown: str
    section: str = ""


def ask(sources: Sequence[Source], budget_seconds: float = BUDGET_SECONDS) -> list[Finding]:
    """Query all sources; return their findings in order. If a source fails or times out, each of its parts is
    reported as FAIL.
    """
    running = [started(partial(_look, source)) for source in sources]
    wait(running, budget_seconds)
    late = f"no answer within {budget_seconds:g} s"
    return [
        finding
        for source, look in zip(sources, running, strict=True)
        for finding in (look.result() if look.done() else _unreachable(source, late))
    ]


def _look(source: Source) -> list[Finding]:
    try:
        return list(source.look())
    except Exception as error:  # any exception is this source's answer
        return _unreachable(source, one_line(error))


def _unreachable(source: Source, cause: str) -> list[Finding]:
    cause = f"{source.name}: {cause}; {source.unknown}"
    return [Finding(part, "FAIL", cause, section=source.section) for part in source.parts]


def one_line(error: Exception) -> str:
    text = " ".join((str(error) or type(error).__name__).split())
    return text if len(text) <= 160 else text[:160] + "…"


def verdict(findings: Iterable[Finding]) -> Level:
    """Return the worst level of the findings."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="OK")


# --- the command ----------------------------------------------------------------------------------


def show(findings: Sequence[Finding], stage: str, now: datetime, wide: bool) -> None:
    """Print the verdict and the state of each part. Each problem is shown with the command to run next or its
    runbook section.

    Parts that failed for the same reason, such as a store that does not answer, are printed together.
    """
    level = verdict(findings)
    bad = [finding for finding in findings if finding.level != "OK"]
    head = "all parts are healthy" if not bad else f"{len(bad)} of {len(findings)} parts need attention"
    terminal.out.print(Text.assemble((level, _COLOURS[level]), f" {stage}: {head}"))
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for _, group in groupby(
        findings, lambda each: replace(each, part="" if each.level == "FAIL" else each.part)
    ):
        finding, *others = group
        parts = "\n".join(each.part for each in (finding, *others))
        since = f" (since {age(now - finding.since)})" if finding.since else ""
        table.add_row(Text(finding.level, _COLOURS[finding.level]), Text(parts), Text(finding.cause + since))
        if finding.level != "OK" and finding.next:
            table.add_row("", "", Text(f"next: {finding.next}", "bold"))
        if finding.level != "OK" and finding.section and (wide or not finding.next):
            table.add_row("", "", Text(f"{RUNBOOK}#{finding.section}"))
    terminal.out.print(table)


def age(delta: timedelta) -> str:
    return f"{pipe_health.span(delta)} ago"


def report(look: Callable[[], list[Finding]], stage: str, *, as_json: bool, wide: bool, watch: bool) -> int:
    """Print the findings once, or with `watch` repeatedly until Ctrl-C; return 0 for OK, 1 for WARN, 2 for FAIL."""
    while True:
        findings = look()
        level = verdict(findings)
        if as_json:
            terminal.print_json({"stage": stage, "verdict": level, "parts": [asdict(f) for f in findings]})
        else:
            if watch and sys.stdout.isatty():
                terminal.out.clear()
            show(findings, stage, datetime.now(UTC), wide)
        if not watch:
            return LEVELS.index(level)
        try:
            time.sleep(BUDGET_SECONDS)
        except KeyboardInterrupt:
            return LEVELS.index(level)


AsWide = Annotated[
    bool, typer.Option("--wide", help="Also show the section of the runbook for each problem.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Repeat every 5 seconds until Ctrl-C.")]
