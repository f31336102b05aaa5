"""The findings that checks return for `milkrun status`: the state of each part of a stage and, for a problem,
the command to run next.

All sources are queried concurrently, each for at most BUDGET_SECONDS. If a source does not answer, its findings
say what is therefore unknown, and the other sources are not delayed.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from cli.command_errors import one_line
from cli.deadline import started
from snowpipe import pipe_health

BUDGET_SECONDS = 5.0
MAX_CAUSE_CHARS = 160

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
    """Return a finding: FAIL if the alarm named `section` pages somebody, otherwise WARN."""
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
    except Exception as error:  # any exception is reported in the findings of this source
        cause = one_line(str(error) or type(error).__name__)
        return _unreachable(source, cause if len(cause) <= MAX_CAUSE_CHARS else f"{cause[:MAX_CAUSE_CHARS]}…")


def _unreachable(source: Source, cause: str) -> list[Finding]:
    cause = f"{source.name}: {cause}; {source.unknown}"
    return [Finding(part, "FAIL", cause, section=source.section) for part in source.parts]


def verdict(findings: Iterable[Finding]) -> Level:
    """Return the worst level of the findings."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="OK")


def age(delta: timedelta) -> str:
    return f"{pipe_health.span(delta)} ago"
