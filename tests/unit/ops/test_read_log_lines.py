"""Test that the log lines of a long time range are read with Logs Insights, as its documentation describes.

LocalStack ignores a query's filter, returns no statistics and completes each query at once, so the tests use a fake.
Like the service, the fake returns at most 10,000 rows per response, includes both ends of the range, and reports
`Running` before `Complete` (Amazon CloudWatch Logs API Reference: "StartQuery", "GetQueryResults").
Requests and responses are checked with botocore's service models.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import itemgetter
from time import monotonic
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from cli.refusal import Refusal
from contract import logs
from ops import read_log_lines
from ops.polling import until
from ops.read_log_lines import log_lines
from ops.stage_outputs import Outputs
from tests.service_models import check, check_answer, service_model

START = datetime(2026, 11, 27, tzinfo=UTC)
MODEL = service_model("logs")


def message(number: int) -> str:
    return json.dumps({"event": logs.EVENTS_INGESTED, "object_key": f"key-{number}"})


def shown(at: float) -> str:
    text = datetime.fromtimestamp(round(at, 3), UTC).isoformat(sep=" ", timespec="milliseconds")
    return text.removesuffix("+00:00")


class Logs:
    """A fake of CloudWatch Logs with a log line at each of the given times."""

    def __init__(self, times: list[datetime], status: str = "Complete") -> None:
        self._lines = sorted((at.timestamp(), message(number)) for number, at in enumerate(times))
        self._status = status
        self._queries: dict[str, list[tuple[float, str]]] = {}
        self._asked: set[str] = set()
        self.filtered: list[timedelta] = []

    @property
    def queries(self) -> int:
        return len(self._queries)

    def start_query(self, **request: Any) -> dict[str, Any]:
        check(MODEL.operation_model("StartQuery"), request)
        assert "limit 10000" in request["queryString"]
        assert f'event = "{logs.EVENTS_INGESTED}"' in request["queryString"]
        found = self._between(request["startTime"], request["endTime"])
        query_id = f"q{len(self._queries)}"
        self._queries[query_id] = found
        return {"queryId": query_id}

    def get_query_results(self, **request: Any) -> dict[str, Any]:
        operation = MODEL.operation_model("GetQueryResults")
        check(operation, request)
        found = self._queries[request["queryId"]]
        is_done = request["queryId"] in self._asked
        self._asked.add(request["queryId"])
        rows = [
            [
                {"field": "@timestamp", "value": shown(at)},
                {"field": "@message", "value": text},
                {"field": "@ptr", "value": "p"},
            ]
            for at, text in found[: 10_000 if is_done else 1]
        ]
        statistics = {"recordsMatched": float(len(found)), "recordsScanned": 1e6, "bytesScanned": 1e9}
        answer = {
            "results": rows,
            "status": self._status if is_done else "Running",
            "statistics": statistics,
        }
        check_answer(operation, {**answer, "results": rows[:10]})
        return answer

    def get_paginator(self, name: str) -> "Logs":
        assert name == "filter_log_events"
        return self

    def paginate(self, **request: Any) -> Iterator[Mapping[str, Any]]:
        check(MODEL.operation_model("FilterLogEvents"), request)
        start, end = request["startTime"] / 1000, request["endTime"] / 1000
        self.filtered.append(timedelta(seconds=end - start))
        events = [{"timestamp": round(at * 1000), "message": text} for at, text in self._between(start, end)]
        yield {"events": events}

    def _between(self, start: float, end: float) -> list[tuple[float, str]]:
        first = bisect_left(self._lines, start, key=itemgetter(0))
        return self._lines[first : bisect_right(self._lines, end, key=itemgetter(0))]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_log_lines, "until", partial(until, every_s=0.01))


class Stage:
    def __init__(self, client: Logs) -> None:
        self._client = client

    def aws(self, service: str) -> Logs:
        assert service == "logs"
        return self._client


def read(client: Logs, end: datetime) -> list[str]:
    stage = cast(Outputs, Stage(client))
    found = log_lines(stage, "dev", "ingest", logs.EVENTS_INGESTED, start=START, end=end)
    return sorted(line["object_key"] for _, line in found)


def keys(count: int) -> list[str]:
    return sorted(f"key-{number}" for number in range(count))


def test_log_queries_read_each_line_of_a_busy_day_exactly_once() -> None:
    """One hour of the log has ten lines per second. Each of the other 23 hours has one line, at its start."""
    busy = [START + timedelta(hours=9, milliseconds=100 * number) for number in range(36_000)]
    borders = [START + timedelta(hours=hour) for hour in range(24) if hour != 9]
    client = Logs(busy + borders)
    assert read(client, START + timedelta(hours=24)) == keys(36_023)
    assert client.filtered == []
    assert client.queries < 60


def test_all_log_lines_of_a_second_are_read_even_if_one_query_cannot_return_them_all() -> None:
    times = [START + timedelta(hours=1, microseconds=1000 * (number % 900)) for number in range(12_000)]
    client = Logs(times)
    assert read(client, START + timedelta(hours=2)) == keys(12_000)
    assert client.filtered == [timedelta(milliseconds=999)]


def test_log_lines_of_a_short_range_are_read_without_a_query() -> None:
    client = Logs([START, START + timedelta(minutes=59)])
    assert read(client, START + timedelta(hours=1)) == keys(2)
    assert client.queries == 0


@pytest.mark.parametrize("hours", [1, 2])
def test_aws_is_asked_for_only_the_log_lines_of_one_request(hours: int) -> None:
    asked: list[str] = []

    class Asked(Logs):
        def start_query(self, **request: Any) -> dict[str, Any]:
            asked.append(request["queryString"])
            return super().start_query(**request)

        def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
            asked.append(request["filterPattern"])
            return super().paginate(**request)

    stage = cast(Outputs, Stage(Asked([START])))
    end = START + timedelta(hours=hours)
    name = logs.EVENTS_INGESTED
    list(log_lines(stage, "dev", "ingest", name, start=START, end=end, request_id="r1="))
    assert all('request_id = "r1="' in text and f'event = "{name}"' in text for text in asked)
    assert asked


class BusyLogs(Logs):
    """A fake of CloudWatch Logs in which the first call of each query operation fails with the given error code."""

    def __init__(self, times: list[datetime], code: str) -> None:
        super().__init__(times)
        self._code = code
        self._refused: set[str] = set()

    def start_query(self, **request: Any) -> dict[str, Any]:
        self._refuse_first("StartQuery")
        return super().start_query(**request)

    def get_query_results(self, **request: Any) -> dict[str, Any]:
        self._refuse_first("GetQueryResults")
        return super().get_query_results(**request)

    def _refuse_first(self, operation: str) -> None:
        if operation not in self._refused:
            self._refused.add(operation)
            raise ClientError({"Error": {"Code": self._code, "Message": "try later"}}, operation)


@pytest.mark.parametrize("code", ["LimitExceededException", "ThrottlingException"])
def test_throttled_log_query_is_delayed_but_does_not_fail(code: str) -> None:
    assert read(BusyLogs([START], code), START + timedelta(hours=2)) == keys(1)


def test_missing_permission_is_not_treated_as_throttling() -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        read(BusyLogs([START], "AccessDeniedException"), START + timedelta(hours=2))


@pytest.mark.parametrize("status", ["Failed", "Cancelled", "Timeout"])
def test_failed_log_query_is_not_treated_as_an_empty_log(status: str) -> None:
    with pytest.raises(Refusal, match=status):
        read(Logs([START], status), START + timedelta(hours=2))


class NewLogs(Logs):
    """A fake of CloudWatch Logs whose log group was created two hours after START."""

    def start_query(self, **request: Any) -> dict[str, Any]:
        if request["endTime"] < (START + timedelta(hours=2)).timestamp():
            said = "Query's end date and time is either before the log groups creation time or exceeds the …"
            raise ClientError({"Error": {"Code": "MalformedQueryException", "Message": said}}, "StartQuery")
        return super().start_query(**request)


def test_log_can_be_read_for_a_range_that_begins_before_its_creation() -> None:
    client = NewLogs([START + timedelta(hours=2, minutes=minute) for minute in (0, 59)])
    assert read(client, START + timedelta(hours=3)) == keys(2)
    assert client.queries == len(client.filtered) == 2  # two of four ranges end before the creation


class HangingLogs(Logs):
    """A fake of CloudWatch Logs in which no query completes except the one whose range begins at START."""

    def start_query(self, **request: Any) -> dict[str, Any]:
        if request["startTime"] == START.timestamp():
            return super().start_query(**request)
        return {"queryId": "hanging"}

    def get_query_results(self, **request: Any) -> dict[str, Any]:
        return (
            {"status": "Running"} if request["queryId"] == "hanging" else super().get_query_results(**request)
        )


def test_error_of_one_log_query_is_raised_without_waiting_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The short timeout lets the test end even if it fails.
    monkeypatch.setattr(read_log_lines, "QUERY_TIMEOUT_SECONDS", 3.0)
    began = monotonic()
    with pytest.raises(Refusal, match="Failed"):
        read(HangingLogs([START], "Failed"), START + timedelta(hours=2))
    assert monotonic() - began < 2
