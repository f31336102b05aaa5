"""Print the findings of `milkrun status`: the verdict on the stage and, for each problem, its cause and the command to
run next. The findings and their texts are in `ops/status_checks.py`.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cli.counts import count
from ops import terminal
from ops.status_findings import BUDGET_SECONDS, LEVELS, Finding, age, verdict

RUNBOOK = "docs/runbook.md"
_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


def show(findings: Sequence[Finding], stage: str, now: datetime, wide: bool) -> None:
    """Print the verdict and the state of each part. Each problem is shown with the command to run next or its
    runbook section.

    Parts that failed for the same reason, such as a store that does not answer, are printed together.
    """
    level = verdict(findings)
    bad = [finding for finding in findings if finding.level != "OK"]
    head = "all parts are healthy" if not bad else f"problems in {len(bad)} of {count(len(findings), 'part')}"
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


def report(look: Callable[[], list[Finding]], stage: str, *, as_json: bool, wide: bool, watch: bool) -> int:
    """Print the findings once, or with `watch` repeatedly until Ctrl-C; return 0 for OK, 1 for WARN, 2 for FAIL."""
    code: int | None = None
    while True:
        try:
            findings = look()
            level = verdict(findings)
            code = LEVELS.index(level)
            if as_json:
                terminal.print_json(
                    {"stage": stage, "verdict": level, "parts": [asdict(f) for f in findings]}
                )
            else:
                if watch and sys.stdout.isatty():
                    terminal.out.clear()
                show(findings, stage, datetime.now(UTC), wide)
            if not watch:
                return code
            time.sleep(BUDGET_SECONDS)
        except KeyboardInterrupt:
            if not watch or code is None:
                raise
            return code


AsWide = Annotated[
    bool, typer.Option("--wide", help="Also show the link to the runbook section of each problem.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Repeat every 5 seconds until Ctrl-C.")]
