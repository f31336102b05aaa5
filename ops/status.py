"""`milkrun status`: whether the stage is healthy; if not, what is wrong, since when, and the next command.

All sources are queried concurrently, each for at most BUDGET_SECONDS. A source that does not answer is named,
together with what is unknown without it, and does not delay the others.
"""

import json
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer
import urllib3
from rich.table import Table
from rich.text import Text

from contract import logs
from ops import redrive, terminal
from ops.function_logs import log_lines
from ops.object_sets import LAST_RESULT
from ops.outputs import Outputs
from ops.read_stores import invalid_rows
from snowpipe import pipes
from snowpipe.check.pipes import FAILED_LOADS_HOURS, failed_loads_sql
from snowpipe.refusal import MissingObject

BUDGET_SECONDS = 5.0
LOGS_REACH = timedelta(minutes=15)
QUARANTINE_REACH = timedelta(hours=24)
INVALID_ROWS_REACH = timedelta(hours=24)
MAX_INVALID_ROWS = 1000
# Phones send a few invalid events all the time; a release or a wrong clock sends more.
REJECTED_SHARE = 0.05
# Beyond two runs of dbt, which may fail before somebody has to look.
STAGING_MAY_LAG = timedelta(minutes=30)
RUNBOOK = "docs/runbook.md"

# The alarms of serverless/alarms.js that wake somebody; a problem with one of these sections is a FAIL, others a WARN.
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
    """The state of one part. `next` is the command to run next; `section` is the anchor of a section of the runbook."""

    part: str
    level: Level
    cause: str
    since: datetime | None = None
    next: str = ""
    section: str = ""


def problem(part: str, section: str, cause: str, next: str, since: datetime | None = None) -> Finding:
    """Return a finding as severe as the alarm whose section of the runbook explains it."""
    return Finding(part, "FAIL" if section in PAGES else "WARN", cause, since, next, section)


@dataclass(frozen=True, slots=True)
class Source:
    """A store or service. `unknown` says what is unknown without its answer."""

    name: str
    parts: tuple[str, ...]
    look: Callable[[], Iterable[Finding]]
    unknown: str
    section: str = ""


def ask(sources: Sequence[Source], budget_seconds: float = BUDGET_SECONDS) -> list[Finding]:
    """Return the findings in the order of the sources. A source that fails or times out yields a FAIL per
    part.

     Each source has a daemon thread, so a source that hangs delays neither the answer nor the program's
     exit: the Snowflake connector does not always keep its own timeouts.
    """
    answers: queue.SimpleQueue[tuple[int, list[Finding]]] = queue.SimpleQueue()

    def look(number: int, source: Source) -> None:
        try:
            found = list(source.look())
        except Exception as error:  # any exception is this source's answer
            found = [_unreachable(source, part, one_line(error)) for part in source.parts]
        answers.put((number, found))

    for number, source in enumerate(sources):
        threading.Thread(target=look, args=(number, source), daemon=True).start()
    by_source: dict[int, list[Finding]] = {}
    deadline = time.monotonic() + budget_seconds
    while len(by_source) < len(sources) and (left := deadline - time.monotonic()) > 0:
        try:
            number, found = answers.get(timeout=left)
        except queue.Empty:
            break
        by_source[number] = found
    late = f"no answer within {budget_seconds:g} s"
    return [
        finding
        for number, source in enumerate(sources)
        for finding in by_source.get(number) or [_unreachable(source, part, late) for part in source.parts]
    ]


def _unreachable(source: Source, part: str, cause: str) -> Finding:
    return Finding(part, "FAIL", f"{source.name}: {cause}; {source.unknown}", section=source.section)


def one_line(error: Exception) -> str:
    text = " ".join((str(error) or type(error).__name__).split())
    return text if len(text) <= 160 else text[:160] + "…"


def verdict(findings: Iterable[Finding]) -> Level:
    """Return the worst level."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="OK")


# --- the sources ----------------------------------------------------------------------------------


def sources_of(outputs: Outputs, stage: str, now: datetime) -> list[Source]:
    """Return the sources that every stage has, in the order of the event flow."""
    flow = _Flow(outputs, stage, now)
    return [
        Source("the gateway", ("gateway",), flow.gateway, "phones keep their batches", "api-5xx"),
        Source(
            "CloudWatch Logs",
            ("ingest", "rejects", "consumer"),
            flow.logs,
            "what the functions did is unknown",
        ),
        Source(
            "S3",
            ("archive", "quarantine", "given up", "last reconcile"),
            flow.s3,
            "phones get 503 if S3 is down for them too",
            "s3-unreachable",
        ),
        Source("SQS", ("redrive", "dead letters"), flow.queues, "waiting claim checks are unknown"),
        Source("Kinesis", ("stream",), flow.stream, "geofence events go to the redrive queue meanwhile"),
        Source("Lambda", ("event source mapping",), flow.mapping, "whether the consumer runs is unknown"),
        Source("DynamoDB", ("visits",), flow.visits, "current visits are unknown"),
        Source(
            "Snowflake",
            ("pipes", "failed loads", "invalid rows", "staging", "marts"),
            flow.warehouse,
            "what is loaded is unknown; the archive has every event",
            "snowflake-unreachable",
        ),
        *([] if stage == "local" else [flow.alarms_source()]),
    ]


class _Flow:
    def __init__(self, outputs: Outputs, stage: str, now: datetime) -> None:
        self._outputs = outputs
        self._stage = stage
        self._now = now
        self._option = terminal.stage_option(stage)

    def _aws(self, service: str) -> Any:
        return self._outputs.aws(service, attempts=1)

    def gateway(self) -> Iterator[Finding]:
        """Return the gateway's state; any response counts, because a request without a key gets 403."""
        pool = urllib3.PoolManager(retries=False, timeout=BUDGET_SECONDS)
        status = pool.request("GET", self._outputs.endpoint).status
        if status >= 500:
            yield Finding("gateway", "FAIL", f"answers {status}", section="api-5xx")
        else:
            yield Finding("gateway", "OK", "answers")

    def logs(self) -> Iterator[Finding]:
        start = self._now - LOGS_REACH
        requests = failed = received = 0
        codes = Counter[str]()
        last_failed: datetime | None = None
        for at, line in self._lines("ingest", logs.EVENTS_INGESTED, start):
            requests += 1
            received += int(line.get("received", 0))
            codes.update(line.get("rejected_by_code", {}))
            if int(line.get("status", 0)) >= 500:
                failed, last_failed = failed + 1, at
        minutes = int(LOGS_REACH.total_seconds() // 60)
        if failed:
            cause = f"{failed} of {requests} requests got a 503 in {minutes} min"
            yield problem("ingest", "api-5xx", cause, "milkrun logs ingest", last_failed)
        else:
            yield Finding("ingest", "OK", f"{requests} requests in {minutes} min, {received} events")
        yield self._rejects(
            received, codes, minutes
        )  # a part of its own, so that failed requests do not hide it
        stopped: Finding | None = None
        batches = 0
        for at, line in self._lines("consume", logs.RECORDS_CONSUMED, start):
            batches += 1
            stopped = None
            if line.get("stopped_at"):
                cause = f"stopped at a record: {line.get('failure', 'see its log')}"
                stopped = problem("consumer", "iterator-age", cause, "milkrun logs consume", at)
        yield stopped or Finding("consumer", "OK", f"{batches} batches in {minutes} min")

    def _rejects(self, received: int, codes: Counter[str], minutes: int) -> Finding:
        cause = f"{codes.total()} of {received} events rejected in {minutes} min"
        if codes.total() <= received * REJECTED_SHARE:
            return Finding("rejects", "OK", cause)
        [(code, number)] = codes.most_common(1)
        cause = f"{cause}, {'all' if number == codes.total() else number} of them as {code}"
        return problem("rejects", "rejected-events", cause, f"milkrun rejects{self._option}")

    def _lines(self, function: str, name: str, start: datetime) -> Iterator[tuple[datetime, dict[str, Any]]]:
        client = self._aws("logs")
        try:
            yield from log_lines(self._outputs, self._stage, function, name, start=start, end=self._now)
        except client.exceptions.ResourceNotFoundException:
            return  # the log group of a function that never ran does not exist

    def s3(self) -> Iterator[Finding]:
        s3, bucket = self._aws("s3"), self._outputs.bucket
        s3.head_bucket(Bucket=bucket)
        yield Finding("archive", "OK", "reachable")
        kept, newest = self._recent(s3, "set-aside/")
        if kept:
            cause = f"{kept} objects in 24 h"
            yield problem("quarantine", "set-aside", cause, f"milkrun quarantine{self._option}", newest)
        else:
            yield Finding("quarantine", "OK", "nothing in 24 h")
        given_up, newest = self._recent(s3, "aws/lambda/")
        if given_up:
            cause = f"{given_up} batches reached the record age in 24 h and are in S3"
            command = f"milkrun replay --on-failure{self._option}"
            yield problem("given up", "given-up-batches", cause, command, newest)
        else:
            yield Finding("given up", "OK", "no batches in 24 h")
        yield self._last_reconcile(s3)

    def _last_reconcile(self, s3: Any) -> Finding:
        command = f"milkrun reconcile{self._option}"
        try:
            body = s3.get_object(Bucket=self._outputs.bucket, Key=LAST_RESULT)["Body"].read()
        except s3.exceptions.ClientError:  # a role that may not list gets AccessDenied for a missing key
            return Finding("last reconcile", "OK", "none yet", None, command)
        last = json.loads(body)
        at = datetime.fromisoformat(last["at"])
        if last["differences"]:
            cause = f"found {last['differences']} differences {age(self._now - at)}"
            return Finding("last reconcile", "FAIL", cause, at, command, "what-reconcile-names")
        said = "nothing is missing" if last["equal"] else "nothing is missing, but Snowflake did not answer"
        return Finding(
            "last reconcile",
            "OK" if last["equal"] else "WARN",
            f"{said} {age(self._now - at)}",
            None,
            command,
        )

    def _recent(self, s3: Any, prefix: str) -> tuple[int, datetime | None]:
        """Return the number of objects of the last 24 hours under a prefix (at most 1,000), and the newest."""
        first = self._now - QUARANTINE_REACH
        after = f"{prefix}dt={first:%Y-%m-%d}" if prefix == "set-aside/" else ""
        page = s3.list_objects_v2(Bucket=self._outputs.bucket, Prefix=prefix, StartAfter=after)
        times = [
            found["LastModified"] for found in page.get("Contents", ()) if found["LastModified"] >= first
        ]
        return len(times), max(times, default=None)

    def queues(self) -> Iterator[Finding]:
        sqs = self._aws("sqs")
        waiting = redrive.waiting(sqs, self._outputs.redrive_queue_url)
        if waiting:
            cause = f"{waiting} claim checks wait for the stream"
            yield problem("redrive", "redrive-waiting", cause, f"milkrun redrive{self._option}")
        else:
            yield Finding("redrive", "OK", "empty")
        dead = redrive.waiting(sqs, self._outputs.dead_letter_queue_url)
        if dead:
            cause = f"{dead} claim checks ran out of tries"
            command = f"milkrun redrive send{self._option}"
            yield problem("dead letters", "dead-letters", cause, command)
        else:
            yield Finding("dead letters", "OK", "none")

    def stream(self) -> Iterator[Finding]:
        summary = self._aws("kinesis").describe_stream_summary(StreamName=self._outputs.stream)
        found = summary["StreamDescriptionSummary"]
        level: Level = "OK" if found["StreamStatus"] in ("ACTIVE", "UPDATING") else "FAIL"
        yield Finding("stream", level, f"{found['StreamStatus'].lower()}, {found['OpenShardCount']} shards")

    def mapping(self) -> Iterator[Finding]:
        name = f"milkrun-{self._stage}-consume"
        found = self._aws("lambda").list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
        states = [each["State"] for each in found]
        if states and all(state in ("Enabled", "Updating", "Enabling") for state in states):
            yield Finding("event source mapping", "OK", "enabled")
        else:
            cause = f"is {', '.join(states).lower()}" if states else "does not exist"
            uuid = found[0]["UUID"] if found else ""
            command = f"aws lambda update-event-source-mapping --enabled --uuid {uuid}" if uuid else ""
            yield problem("event source mapping", "consume-stopped", cause, command)

    def visits(self) -> Iterator[Finding]:
        found = self._aws("dynamodb").describe_table(TableName=self._outputs.visits_table)["Table"]
        level: Level = "OK" if found["TableStatus"] in ("ACTIVE", "UPDATING") else "FAIL"
        yield Finding("visits", level, found["TableStatus"].lower())

    def warehouse(self) -> Iterator[Finding]:
        database = self._outputs.database
        with self._outputs.warehouse(int(BUDGET_SECONDS)) as session:
            unwell = []
            for pipe in pipes.pipes(database):
                triage = pipes.triage(pipes.status(session, pipe), None, self._now)
                if not triage.healthy:
                    unwell.append(f"{pipe.name.rpartition('.')[2]}: {triage.words}")
            if unwell:
                command = "milkrun warehouse status"
                yield problem("pipes", "snowpipe-stopped", "; ".join(unwell), command)
            else:
                yield Finding("pipes", "OK", "running")
            [row] = session.query(failed_loads_sql(database))
            if row["n"]:
                cause = f"{row['n']} files in {FAILED_LOADS_HOURS} h"
                command = "milkrun warehouse validate"
                yield problem("failed loads", "failed-loads", cause, command)
            else:
                yield Finding("failed loads", "OK", f"none in {FAILED_LOADS_HOURS} h")
            yield self._invalid_rows(session, database)
            yield staging(session, database, self._outputs.freshness_minutes)
            yield self._marts(session, database)

    def _invalid_rows(self, session: Any, database: str) -> Finding:
        found = invalid_rows(session, database, self._now - INVALID_ROWS_REACH, self._now, MAX_INVALID_ROWS)
        if not found:
            return Finding("invalid rows", "OK", "none in 24 h")
        [first, *rest] = found
        cause = f"{first['file']} line {first['line']}: {first['reason']}" + (
            f"; {len(rest)} more" if rest else ""
        )
        command = f"milkrun reconcile{self._option}"
        return problem("invalid rows", "invalid-rows", cause, command)

    def _marts(self, session: Any, database: str) -> Finding:
        try:
            session.query(f"SELECT visit_key FROM {database}.MARTS.GEOFENCE_VISITS LIMIT 1")
        except MissingObject:
            return Finding("marts", "WARN", "not built yet", None, "milkrun warehouse dbt build")
        return Finding("marts", "OK", "built")

    def alarms_source(self) -> Source:
        return Source("CloudWatch", ("alarms",), self.alarms, "which alarms ring is unknown")

    def alarms(self) -> Iterator[Finding]:
        """Return the alarms that ring.

        LocalStack's CloudWatch has none of the metrics, so there they never ring.
        """
        pages = (
            self._aws("cloudwatch")
            .get_paginator("describe_alarms")
            .paginate(AlarmNamePrefix=f"milkrun-{self._stage}-", StateValue="ALARM")
        )
        ringing = [alarm for page in pages for alarm in page["MetricAlarms"]]
        for alarm in ringing:
            name = alarm["AlarmName"].removeprefix(f"milkrun-{self._stage}-")
            pages_somebody = any("page" in action.lower() for action in alarm.get("AlarmActions", ()))
            yield Finding(
                f"alarm {name}",
                "FAIL" if pages_somebody else "WARN",
                alarm.get("AlarmDescription") or alarm.get("StateReason", ""),
                alarm.get("StateUpdatedTimestamp"),
                section=name,
            )
        if not ringing:
            yield Finding("alarms", "OK", "none rings")


def staging(session: Any, database: str, freshness_minutes: int = 60) -> Finding:
    """Compare how far RAW is loaded with how far the last complete run of dbt has read it.

    The newest row of STG_EVENTS would not do: a repeated event adds none.
    """
    [raw] = session.query(f"SELECT MAX(scanned_at) AS at FROM {database}.RAW.EVENTS")
    try:
        [run] = session.query(f"SELECT MAX(scanned_through) AS at FROM {database}.STAGING.COMPLETED_RUN")
        session.query(f"SELECT event_key FROM {database}.STAGING.STG_EVENTS LIMIT 1")
    except MissingObject:
        return Finding("staging", "WARN", "not built yet", None, "milkrun warehouse dbt build")
    if raw["at"] and (
        not run["at"] or raw["at"] - run["at"] > 2 * timedelta(minutes=freshness_minutes) + STAGING_MAY_LAG
    ):
        cause = (
            f"dbt has read RAW up to {terminal.in_words(run['at'])}, loaded is {terminal.in_words(raw['at'])}"
        )
        return Finding("staging", "WARN", cause, run["at"], "milkrun warehouse dbt build")
    return Finding("staging", "OK", "up to date" if raw["at"] else "RAW is empty")


def console_source(outputs: Outputs) -> list[Source]:
    """Return the console of a local stack; a deployed stage has none."""
    url = outputs.console_url
    if url is None:
        return []

    def look() -> Iterator[Finding]:
        status = urllib3.PoolManager(retries=False, timeout=BUDGET_SECONDS).request("GET", url).status
        yield Finding(
            "console", "OK" if status < 500 else "WARN", url, next="" if status < 500 else "make console"
        )

    return [Source("the console", ("console",), look, "run `make console`")]


# --- the command ----------------------------------------------------------------------------------


def show(findings: Sequence[Finding], stage: str, now: datetime, wide: bool) -> None:
    """Print the verdict and a line for each part; for a problem the next command, otherwise the runbook's section."""
    level = verdict(findings)
    bad = [finding for finding in findings if finding.level != "OK"]
    head = "all is well" if not bad else f"{len(bad)} of {len(findings)} parts need attention"
    terminal.out.print(Text.assemble((level, _COLOURS[level]), f" {stage}: {head}"))
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        since = f" (since {age(now - finding.since)})" if finding.since else ""
        table.add_row(Text(finding.level, _COLOURS[finding.level]), finding.part, Text(finding.cause + since))
        if finding.level != "OK" and finding.next:
            table.add_row("", "", Text(f"next: {finding.next}", "bold"))
        if finding.level != "OK" and finding.section and (wide or not finding.next):
            table.add_row("", "", Text(f"{RUNBOOK}#{finding.section}"))
    terminal.out.print(table)


def age(delta: timedelta) -> str:
    return f"{pipes.span(delta)} ago"


def findings_of(outputs: Outputs, stage: str, more: Sequence[Source]) -> list[Finding]:
    import snowflake.connector  # noqa: F401  # takes 2.6 s, and more on a busy machine, so the budget starts after it

    return ask([*sources_of(outputs, stage, datetime.now(UTC)), *console_source(outputs), *more])


def report(look: Callable[[], list[Finding]], stage: str, *, as_json: bool, wide: bool, watch: bool) -> int:
    """Print the findings of `look` once, or until Ctrl-C; return 0 for OK, 1 for WARN, 2 for FAIL."""
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


AsWide = Annotated[bool, typer.Option("--wide", help="Show the runbook's section for each finding.")]
Watch = Annotated[bool, typer.Option("--watch", help="Repeat every 5 seconds until Ctrl-C.")]
