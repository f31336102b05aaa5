"""Read the canonical log lines of functions from CloudWatch Logs.

Short ranges are read with FilterLogEvents, which returns a line a few seconds after it was written. For long
ranges, FilterLogEvents would take hours on a busy stage, because each call reads at most 1 MB of lines,
whether they match or not (Amazon CloudWatch Logs API Reference: "FilterLogEvents"). Long ranges are therefore
read with Logs Insights, which is billed by the amount of scanned data.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from math import ceil, inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from botocore.exceptions import ClientError

from cli.deadline import started
from cli.refusal import Refusal
from ops.polling import until
from ops.stage_outputs import Outputs

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

type Fields = dict[str, Any]
"""The JSON of a canonical log line, or of a response."""
type Line = tuple[datetime, Fields]

SHORT = timedelta(hours=1)
QUERY_RANGE = timedelta(hours=1)
MAX_ROWS = 10_000
"""Maximum number of rows per query. More rows require pagination and a newer API (Amazon CloudWatch Logs API
Reference: "StartQuery", limit)."""
QUERIES_AT_ONCE = 4
"""Maximum number of concurrent queries; an account allows at least 30 (Amazon CloudWatch Logs API
Reference: "StartQuery")."""
QUERY_TIMEOUT_SECONDS = 3_600.0
REFUSED = "MalformedQueryException"
THROTTLING = ("LimitExceededException", "ThrottlingException")
SECOND = timedelta(seconds=1)


class TooSlowError(Exception):
    """Raised if the lines of a short range could not all be read in time, because the stage is busy."""


class Span(NamedTuple):
    """A time range from `start` (inclusive) to `end` (exclusive). Both are whole seconds, as Logs Insights requires."""

    start: datetime
    end: datetime

    def parts(self, count: int) -> list["Span"]:
        seconds = max(1, ceil((self.end - self.start).total_seconds() / count))
        bounds = [self.start]
        while bounds[-1] < self.end:
            bounds.append(min(self.end, bounds[-1] + timedelta(seconds=seconds)))
        return [Span(*pair) for pair in pairwise(bounds)]


def log_lines(
    outputs: Outputs,
    stage: str,
    function: str,
    name: str,
    *,
    start: datetime,
    end: datetime,
    seconds: float = inf,
    request_id: str = "",
) -> Iterator[Line]:
    """Yield a function's canonical log lines with this event name (`contract/logs.py`), each with its time. With
    `request_id`, which must not contain a quote, AWS omits the lines of other requests.

    The lines are in time order only if the range is at most an hour. For such a range, raises TooSlowError if reading
    takes more than `seconds`.
    """
    group, client = f"/aws/lambda/milkrun-{stage}-{function}", outputs.aws("logs")
    if end - start <= SHORT:
        yield from _filtered(client, group, name, start, end, monotonic() + seconds, request_id)
        return
    for at, line in _queried(client, group, name, start, end, request_id):
        if start <= at <= end:
            yield at, line


def log_days(outputs: Outputs, stage: str, function: str) -> int | None:
    """Return the retention period of a function's log in days; None if the log never expires or does not exist."""
    name = f"/aws/lambda/milkrun-{stage}-{function}"
    groups = outputs.aws("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    return next((group.get("retentionInDays") for group in groups if group["logGroupName"] == name), None)


def _filtered(
    client: "CloudWatchLogsClient",
    group: str,
    name: str,
    start: datetime,
    end: datetime,
    give_up_at: float = inf,
    request_id: str = "",
) -> Iterator[Line]:
    also = f' && ($.request_id = "{request_id}")' if request_id else ""
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=group,
        startTime=int(start.timestamp() * 1000),
        endTime=int(end.timestamp() * 1000),
        filterPattern=f'{{ ($.event = "{name}"){also} }}' if also else f'{{ $.event = "{name}" }}',
    )
    for page in pages:
        for found in page["events"]:
            at = datetime.fromtimestamp(found["timestamp"] / 1000, UTC)
            yield from _line(at, found["message"], name)
        if "nextToken" in page and monotonic() > give_up_at:
            raise TooSlowError


def _queried(
    client: "CloudWatchLogsClient", group: str, name: str, start: datetime, end: datetime, request_id: str
) -> Iterator[Line]:
    whole = Span(start.replace(microsecond=0), end.replace(microsecond=0) + SECOND)
    waiting = whole.parts(ceil((whole.end - whole.start) / QUERY_RANGE))
    while waiting:
        some, waiting = waiting[:QUERIES_AT_ONCE], waiting[QUERIES_AT_ONCE:]
        # Run the queries in daemon threads, so that neither Ctrl-C nor an error waits for the other queries, which may
        # take minutes.
        running = [started(partial(_query, client, group, name, span, request_id)) for span in some]
        for span, query in zip(some, running, strict=True):
            answer = query.result()
            rows = answer["results"]
            is_full = len(rows) >= MAX_ROWS
            if answer["status"] == REFUSED or (is_full and span.end - span.start <= SECOND):
                last = span.end - timedelta(milliseconds=1)
                yield from _filtered(client, group, name, span.start, last, request_id=request_id)
            elif not is_full:
                yield from _rows(rows, name, span)
            else:
                matched = answer.get("statistics", {}).get("recordsMatched", 0)
                # Split the range into a quarter more parts than computed, because lines are not evenly distributed.
                waiting = span.parts(max(2, ceil(matched / MAX_ROWS * 1.25))) + waiting


def _query(client: "CloudWatchLogsClient", group: str, name: str, span: Span, request_id: str = "") -> Fields:
    """Run a Logs Insights query and return its complete result. Raises Refusal if the query fails.

    If the range ends before the log group was created, or before the start of its retention period, Logs Insights
    refuses the query as malformed. The status of the result is then REFUSED.
    """
    also = f' and request_id = "{request_id}"' if request_id else ""
    start = partial(
        client.start_query,
        logGroupName=group,
        startTime=int(span.start.timestamp()),
        endTime=int(span.end.timestamp()),
        queryString=f'fields @timestamp, @message | filter event = "{name}"{also} | limit {MAX_ROWS}',
    )
    try:
        started = until(lambda: _unless_throttled(start), bool, timeout_s=QUERY_TIMEOUT_SECONDS)
    except ClientError as error:
        if error.response["Error"]["Code"] != REFUSED:
            raise
        return {"status": REFUSED, "results": []}
    answer: Fields = {"status": "Throttled"}
    if started:
        get_results = partial(client.get_query_results, queryId=started["queryId"])
        answer = until(
            lambda: _unless_throttled(get_results),
            lambda answer: answer.get("status") not in (None, "Scheduled", "Running"),
            timeout_s=QUERY_TIMEOUT_SECONDS,
        )
    if answer.get("status") != "Complete":
        raise Refusal(
            f"the query of log group {group} from {span.start:%Y-%m-%dT%H:%M:%SZ} to {span.end:%H:%M:%SZ} ended with"
            f" status {answer.get('status', 'unknown')}: try again, or choose a shorter range"
        )
    return answer


def _unless_throttled(call: Callable[[], Mapping[str, Any]]) -> Fields:
    """Make a call and return its response, or {} if CloudWatch Logs throttled all of boto3's attempts.

    All queries and dashboards of an account share one limit (Amazon CloudWatch Logs API Reference: "StartQuery").
    """
    try:
        return dict(call())
    except ClientError as error:
        if error.response["Error"]["Code"] not in THROTTLING:
            raise
        return {}


def _rows(rows: list[list[dict[str, str]]], name: str, span: Span) -> Iterator[Line]:
    """Yield the lines in the span.

    A query also returns lines at the span's end, because both ends of its time range are inclusive.
    """
    for row in rows:
        fields = {each["field"]: each["value"] for each in row}
        at = _time(fields["@timestamp"])
        if span.start <= at < span.end:
            yield from _line(at, fields["@message"], name)


def _time(value: str) -> datetime:
    """Parse a UTC time such as `2026-11-28 09:30:00.000`, or milliseconds since 1970, which LocalStack returns."""
    if value.isdigit():
        return datetime.fromtimestamp(int(value) / 1000, UTC)
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


def _line(at: datetime, message: str, name: str) -> Iterator[Line]:
    """Yield the line if it has this event name. This check is necessary because LocalStack ignores filters."""
    if name not in message:
        return
    try:
        line = msgspec.json.decode(message, type=Fields)
    except msgspec.MsgspecError:
        return
    if line.get("event") == name:
        yield at, line
