"""The checks of `milkrun status`: the state of each part of a stage and, for a problem, the command to run next."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING

import urllib3

from cli.counts import count
from cli.deadline import within
from cli.refusal import Refusal
from contract import logs
from ops import redrive, terminal
from ops.object_sets import LAST_RESULT
from ops.read_log_lines import Line as LogLine
from ops.read_log_lines import TooSlowError, log_lines
from ops.read_stores import invalid_rows
from ops.stage_outputs import Client, Outputs
from ops.status_findings import BUDGET_SECONDS, Finding, Level, Source, age, ask, problem
from snowpipe import pipe_health, pipes
from snowpipe.archive import Archive
from snowpipe.pipe_check.metrics import FAILED_LOADS_HOURS, failed_loads_sql
from snowpipe.warehouse import MissingObject, Warehouse

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LOGS_REACH = timedelta(minutes=15)
LOGS_SECONDS = 1.5
QUARANTINE_REACH = timedelta(hours=24)
INVALID_ROWS_REACH = timedelta(hours=24)
MAX_INVALID_ROWS = 1000
# A few invalid events are normal. A faulty release of the app or a wrong clock causes more.
REJECTED_SHARE = 0.05
# Staging may lag behind RAW by two intervals between dbt runs plus this time, because a run takes time.
STAGING_MAY_LAG = timedelta(minutes=30)
# The topics of serverless/alarm_recipients.yml.
_TOPIC = re.compile(r":milkrun-(?P<stage>[^:]+)-(alarms|pages)$")
DBT_BUILD = "milkrun warehouse dbt build"


def sources_of(outputs: Outputs, stage: str, now: datetime) -> list[Source]:
    """Return the services and stores of a stage that are queried for its state, in the order of the event flow."""
    flow = _Flow(outputs, stage, now)
    return [
        Source("the gateway", ("gateway",), flow.gateway, "phones keep their batches", "api-5xx"),
        Source(
            "CloudWatch Logs",
            ("ingest", "rejects"),
            flow.requests,
            "the results of recent requests are unknown",
        ),
        Source("CloudWatch Logs", ("consumer",), flow.batches, "the results of recent batches are unknown"),
        Source(
            "S3",
            ("archive", "quarantine", "given up", "last reconcile"),
            flow.s3,
            "phones get a 503 if the handler cannot reach S3 either",
            "s3-unreachable",
        ),
        Source(
            "SQS", ("redrive", "dead letters"), flow.queues, "the number of waiting claim checks is unknown"
        ),
        Source(
            "Kinesis",
            ("stream",),
            flow.stream,
            "geofence events go to the redrive queue if the handler cannot reach Kinesis either",
        ),
        Source("Lambda", ("event source mapping",), flow.mapping, "it is unknown whether the consumer runs"),
        Source("DynamoDB", ("visits",), flow.visits, "current visits are unknown"),
        Source(
            "Snowflake",
            ("pipes", "failed loads", "invalid rows", "staging", "marts"),
            flow.warehouse,
            "it is unknown which events are loaded; the archive contains every accepted event",
            "snowflake-unreachable",
        ),
        *(
            []
            if stage == "local"
            else [Source("CloudWatch", ("alarms",), flow.alarms, "it is unknown which alarms are active")]
        ),
    ]


class _Flow:
    def __init__(self, outputs: Outputs, stage: str, now: datetime) -> None:
        self._outputs = outputs
        self._stage = stage
        self._now = now
        self._option = terminal.stage_option(stage)

    def _aws(self, service: str) -> Client:
        return self._outputs.aws(service, attempts=1)

    def _log_command(self, function: str) -> str:
        """Return the command that prints the log of a function. `milkrun logs` works only for the local stack."""
        local = self._stage == "local"
        return f"milkrun logs {function}" if local else f"npx osls logs -f {function}{self._option}"

    def gateway(self) -> Iterator[Finding]:
        """Yield the state of the gateway. A 403 counts as healthy, because the request contains no API key."""
        pool = urllib3.PoolManager(retries=False, timeout=BUDGET_SECONDS)
        status = pool.request("GET", self._outputs.endpoint).status
        if status >= 500:
            yield Finding("gateway", "FAIL", f"answers {status}", section="api-5xx")
        else:
            yield Finding("gateway", "OK", "answers")

    def requests(self) -> Iterator[Finding]:
        """Yield the states of ingest and rejects from the log of the ingest function."""
        requests = failed = received = 0
        codes = Counter[str]()
        last: tuple[datetime | None, str] = None, ""
        lines, reach = self._lines("ingest", logs.EVENTS_INGESTED)
        for at, line in lines:
            requests += 1
            received += int(line.get("received", 0))
            codes.update(line.get("rejected_by_code", {}))
            if int(line.get("status", 0)) >= 500:
                failed, last = failed + 1, (at, line.get("error", "see its log"))
        well = f"{count(requests, 'request')} in {reach}, {count(received, 'event')}"
        cause = f"{failed:,} of {count(requests, 'request')} got a 503 in {reach}: {last[1]}"
        command = self._log_command("ingest")
        yield _problem_if(failed, "ingest", "api-5xx", cause, command, well, last[0])
        yield self._rejects(received, codes, reach)

    def batches(self) -> Iterator[Finding]:
        """Yield the state of the consumer from its log."""
        batches = 0
        stopped: dict[str, Finding] = {}  # by shard, because other shards continue
        lines, reach = self._lines("consume", logs.RECORDS_CONSUMED)
        for at, line in lines:
            batches += 1
            stopped.pop(shard := line.get("shard_id", ""), None)
            if line.get("stopped_at"):
                cause = f"stopped at a record: {line.get('failure', 'see its log')}"
                stopped[shard] = problem("consumer", "iterator-age", cause, self._log_command("consume"), at)
        running = Finding("consumer", "OK", f"{count(batches, 'batch')} in {reach}")
        yield next(iter(stopped.values()), running)

    def _rejects(self, received: int, codes: Counter[str], reach: str) -> Finding:
        cause = f"{codes.total():,} of {count(received, 'event')} rejected in {reach}"
        reasons = ", ".join(f"{number:,} as {code}" for code, number in codes.most_common(3))
        many = codes.total() > received * REJECTED_SHARE
        return _problem_if(
            many, "rejects", "rejected-events", f"{cause}: {reasons}", f"milkrun rejects{self._option}", cause
        )

    def _lines(self, function: str, name: str) -> tuple[list[LogLine], str]:
        """Return a function's log lines of the last 15 minutes, and the length of this period as text: "15 min".

        On a busy stage, whose lines cannot all be read in time, the period is shortened to 90 or 9 seconds.
        """
        client, reach = self._aws("logs"), LOGS_REACH
        # The log group may be missing, for example because somebody deleted it.
        with suppress(client.exceptions.ResourceNotFoundException):
            while True:
                seconds = LOGS_SECONDS if reach > LOGS_REACH / 100 else inf
                found = log_lines(
                    self._outputs,
                    self._stage,
                    function,
                    name,
                    start=self._now - reach,
                    end=self._now,
                    seconds=seconds,
                )
                try:
                    return list(found), pipe_health.span(reach)
                except TooSlowError:
                    reach /= 10
        return [], pipe_health.span(reach)

    def s3(self) -> Iterator[Finding]:
        s3, bucket = self._aws("s3"), self._outputs.bucket
        s3.head_bucket(Bucket=bucket)
        yield Finding("archive", "OK", "reachable")
        kept, newest = self._recent(s3, "set-aside/")
        command = f"milkrun quarantine{self._option}"
        cause = f"{count(kept, 'object')} in 24 h"
        yield _problem_if(kept, "quarantine", "set-aside", cause, command, "nothing in 24 h", newest)
        given_up, newest = self._recent(s3, "aws/lambda/")
        command = f"milkrun replay --on-failure{self._option}"
        cause = f"{count(given_up, 'batch')} discarded in the last 24 h and stored in S3"
        yield _problem_if(
            given_up, "given up", "given-up-batches", cause, command, "no batches in 24 h", newest
        )
        yield self._last_reconcile(s3)

    def _last_reconcile(self, s3: "S3Client") -> Finding:
        part, command = "last reconcile", f"milkrun reconcile{self._option}"
        try:
            body = s3.get_object(Bucket=self._outputs.bucket, Key=LAST_RESULT)["Body"].read()
        except s3.exceptions.ClientError:  # a role that may not list gets AccessDenied for a missing key
            return Finding(part, "OK", "none yet", None, command)
        last = json.loads(body)
        at = datetime.fromisoformat(last["at"])
        ago = age(self._now - at)
        if last["differences"]:
            cause = f"found {count(last['differences'], 'difference')} {ago}"
            return Finding(part, "FAIL", cause, at, command, "what-reconcile-names")
        if last["equal"]:
            return Finding(part, "OK", f"nothing was missing {ago}", None, command)
        return Finding(part, "WARN", f"nothing was missing {ago} in the stores that answered", None, command)

    def _recent(self, s3: "S3Client", prefix: str) -> tuple[int, datetime | None]:
        """Return the number of objects stored under a prefix in the last 24 hours, and the time of the latest."""
        first = self._now - QUARANTINE_REACH
        after = f"{prefix}dt={first:%Y-%m-%d}" if prefix == "set-aside/" else ""
        listing = s3.get_paginator("list_objects_v2")
        pages = listing.paginate(Bucket=self._outputs.bucket, Prefix=prefix, StartAfter=after)
        times = [
            found["LastModified"]
            for page in pages
            for found in page.get("Contents", ())
            if found["LastModified"] >= first
        ]
        return len(times), max(times, default=None)

    def queues(self) -> Iterator[Finding]:
        sqs = self._aws("sqs")
        waiting = redrive.waiting(sqs, self._outputs.redrive_queue_url)
        cause = f"{count(waiting, 'claim check')} waiting for the stream"
        command = self._log_command("redrive")
        yield _problem_if(waiting, "redrive", "redrive-waiting", cause, command, "empty")
        dead = redrive.waiting(sqs, self._outputs.dead_letter_queue_url)
        cause = f"{count(dead, 'claim check')} ran out of retries"
        command = f"milkrun redrive{self._option}"
        yield _problem_if(dead, "dead letters", "dead-letters", cause, command, "none")

    def stream(self) -> Iterator[Finding]:
        summary = self._aws("kinesis").describe_stream_summary(StreamName=self._outputs.stream)
        found = summary["StreamDescriptionSummary"]
        level: Level = "OK" if found["StreamStatus"] in ("ACTIVE", "UPDATING") else "FAIL"
        yield Finding(
            "stream", level, f"{found['StreamStatus'].lower()}, {count(found['OpenShardCount'], 'shard')}"
        )

    def mapping(self) -> Iterator[Finding]:
        name = f"milkrun-{self._stage}-consume"
        found = self._aws("lambda").list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
        states = [each["State"] for each in found]
        well = bool(states) and all(state in ("Enabled", "Updating", "Enabling") for state in states)
        cause = f"is {', '.join(states).lower()}" if states else "does not exist"
        command = (
            f"{self._outputs.aws_command} lambda update-event-source-mapping --enabled --uuid {found[0]['UUID']}"
            if found
            else ""
        )
        yield _problem_if(not well, "event source mapping", "consume-stopped", cause, command, "enabled")

    def visits(self) -> Iterator[Finding]:
        found = self._aws("dynamodb").describe_table(TableName=self._outputs.visits_table)["Table"]
        level: Level = "OK" if found["TableStatus"] in ("ACTIVE", "UPDATING") else "FAIL"
        yield Finding("visits", level, found["TableStatus"].lower())

    def warehouse(self) -> Iterator[Finding]:
        """Yield the states of the warehouse's parts. If a database object of one part does not exist, the
        other parts are still shown.
        """
        parts: dict[str, Callable[[Warehouse], Finding]] = {
            "pipes": self._pipes,
            "failed loads": self._failed_loads,
            "invalid rows": self._invalid_rows,
            "staging": lambda session: staging(
                session, self._outputs.database, self._outputs.freshness_minutes
            ),
            "marts": lambda session: marts(session, self._outputs.database),
        }
        with self._outputs.warehouse(int(BUDGET_SECONDS)) as session:
            for part, look in parts.items():
                try:
                    yield look(session)
                except MissingObject as missing:
                    yield problem(part, "snowpipe-stopped", str(missing), "milkrun warehouse apply")

    def _pipes(self, session: Warehouse) -> Finding:
        archive = Archive(self._aws("s3"), self._outputs.bucket)
        unwell, paused = [], False
        for pipe in pipes.pipes(self._outputs.database):
            status, created_at = pipes.status(session, pipe), pipes.created_at(session, pipe)
            newest_at = None
            with suppress(Refusal, *terminal.AWS_ERRORS):  # a failure of S3 is reported by the source S3
                newest = within(1, partial(archive.newest, pipe.prefix, created_at), "S3")
                newest_at = newest.modified_at if newest else None
            triage = pipe_health.triage(status, newest_at, self._now)
            if not triage.healthy:
                unwell.append(f"{pipe.name.rpartition('.')[2]}: {triage.words}")
                paused = paused or status.state == "PAUSED"
        command = f"milkrun warehouse {'resume' if paused else 'status'}"
        return _problem_if(unwell, "pipes", "snowpipe-stopped", "; ".join(unwell), command, "running")

    def _failed_loads(self, session: Warehouse) -> Finding:
        [row] = session.query(failed_loads_sql(self._outputs.database))
        cause, well = (
            f"{count(row['n'], 'file')} in {FAILED_LOADS_HOURS} h",
            f"none in {FAILED_LOADS_HOURS} h",
        )
        return _problem_if(
            row["n"], "failed loads", "failed-loads", cause, "milkrun warehouse validate", well
        )

    def _invalid_rows(self, session: Warehouse) -> Finding:
        start = self._now - INVALID_ROWS_REACH
        found = invalid_rows(session, self._outputs.database, start, self._now, MAX_INVALID_ROWS)
        causes = [f"{each['file']} line {each['line']}: {each['reason']}" for each in found]
        cause = "; ".join([*causes[:1], *([f"{len(causes) - 1} more"] if causes[1:] else [])])
        command = f"milkrun reconcile{self._option}"
        return _problem_if(found, "invalid rows", "invalid-rows", cause, command, "none in 24 h")

    def alarms(self) -> Iterator[Finding]:
        """Yield the alarms in state ALARM, except those without actions, which are parts of composite alarms.

        Alarms whose actions are disabled, such as those of `dev`, get no finding of their own. One finding with the
        level OK lists their names.

        The local stack is not queried, because no alarm fires in LocalStack, which has none of the metrics.
        """
        pages = (
            self._aws("cloudwatch")
            .get_paginator("describe_alarms")
            .paginate(
                AlarmNamePrefix=f"milkrun-{self._stage}-",
                StateValue="ALARM",
                AlarmTypes=["CompositeAlarm", "MetricAlarm"],
            )
        )
        active = [
            alarm
            for page in pages
            for alarm in (*page.get("CompositeAlarms", ()), *page.get("MetricAlarms", ()))
        ]
        disabled = []
        is_any = False
        for alarm in active:
            topics = [_TOPIC.search(action) for action in alarm.get("AlarmActions", ())]
            # The prefix of stage "dev" also finds the alarms of a stage "dev-2", which notify other topics.
            if all(topic is not None and topic["stage"] != self._stage for topic in topics):
                continue
            name = alarm["AlarmName"].removeprefix(f"milkrun-{self._stage}-")
            if not alarm.get("ActionsEnabled", True):
                disabled.append(name)
                continue
            is_any = True
            pages_somebody = any("page" in action.lower() for action in alarm.get("AlarmActions", ()))
            yield Finding(
                f"alarm {name}",
                "FAIL" if pages_somebody else "WARN",
                alarm.get("AlarmDescription") or alarm.get("StateReason", ""),
                alarm.get("StateUpdatedTimestamp"),
                section=name,
            )
        named = f"active, but disabled: {', '.join(sorted(disabled))}" if disabled else ""
        if named or not is_any:
            yield Finding("alarms", "OK", named or "no alarm is active")


def _problem_if(
    is_one: object,
    part: str,
    section: str,
    cause: str,
    command: str,
    well: str,
    since: datetime | None = None,
) -> Finding:
    """Return a problem if `is_one` is true, otherwise a finding with the level OK and the text `well`."""
    return problem(part, section, cause, command, since) if is_one else Finding(part, "OK", well)


def staging(session: Warehouse, database: str, freshness_minutes: int = 60) -> Finding:
    """Return the state of staging, based on RAW's newest row and the time up to which the last dbt run read RAW.

    The newest row of STG_EVENTS cannot be used instead, because an event that is sent again adds no row.
    """
    [raw] = session.query(f"SELECT MAX(scanned_at) AS at FROM {database}.RAW.EVENTS")
    if missing := _missing(session, "staging", database, "STAGING.STG_EVENTS"):
        return missing
    [run] = session.query(f"SELECT MAX(scanned_through) AS at FROM {database}.STAGING.COMPLETED_RUN")
    if raw["at"] and (
        not run["at"] or raw["at"] - run["at"] > 2 * timedelta(minutes=freshness_minutes) + STAGING_MAY_LAG
    ):
        read = (
            f"dbt has read RAW up to {terminal.in_words(run['at'])}"
            if run["at"]
            else "no dbt run has completed"
        )
        cause = f"{read}, but RAW's newest row is from {terminal.in_words(raw['at'])}"
        return problem("staging", "staging-or-marts-are-old", cause, DBT_BUILD, run["at"])
    return Finding("staging", "OK", "up to date" if raw["at"] else "RAW is empty")


def marts(session: Warehouse, database: str) -> Finding:
    missing = _missing(session, "marts", database, "MARTS.GEOFENCE_VISITS")
    return missing or Finding("marts", "OK", "built")


def _missing(session: Warehouse, part: str, database: str, table: str) -> Finding | None:
    """Return a problem if dbt has never run, or if somebody has dropped the table.

    A dropped table needs a full refresh, because an incremental model, such as the visits, reads its earlier result.
    """
    try:
        session.query(f"SELECT 1 FROM {database}.STAGING.COMPLETED_RUN LIMIT 1")
    except MissingObject:
        return problem(part, "staging-or-marts-are-old", "not built yet", DBT_BUILD)
    try:
        session.query(f"SELECT 1 FROM {database}.{table} LIMIT 1")
    except MissingObject:
        command = f"{DBT_BUILD} --full-refresh"
        return problem(part, "staging-or-marts-are-old", f"{table} does not exist", command)
    return None


def console_source(outputs: Outputs) -> list[Source]:
    """Return the console of the local stack as a source; [] for a deployed stage, which has none."""
    url = outputs.console_url
    if url is None:
        return []

    def look() -> Iterator[Finding]:
        status = urllib3.PoolManager(retries=False, timeout=BUDGET_SECONDS).request("GET", url).status
        yield Finding(
            "console", "OK" if status < 500 else "WARN", url, next="" if status < 500 else "make console"
        )

    return [Source("the console", ("console",), look, "run `make console`")]


def findings_of(outputs: Outputs, stage: str, local: Sequence[Source]) -> list[Finding]:
    """Return all findings. Those about the local processes come first, because they may explain later findings."""
    # The import takes 2.6 s, and more on a busy machine, so the budget starts after it.
    import_module("snowflake.connector")
    return ask([*local, *sources_of(outputs, stage, datetime.now(UTC)), *console_source(outputs)])
