"""What `top` makes of log lines, queues and pipes; and that what it cannot read hides nothing."""

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from contract import logs
from contract.metrics import with_metrics
from ops import top

STAGE = "dev"


class NotFoundError(Exception):
    """CloudWatch Logs' ResourceNotFoundException."""


class Logs:
    """Log groups in pages of two; those of functions that never ran are not there."""

    class exceptions:
        ResourceNotFoundException = NotFoundError

    def __init__(self, groups):
        self.groups = groups

    def filter_log_events(self, *, logGroupName, startTime, nextToken="0"):
        function = logGroupName.removeprefix(f"/aws/lambda/milkrun-{STAGE}-")
        if function not in self.groups:
            raise NotFoundError
        begin = int(nextToken)
        page = {"events": [{"message": text} for text in self.groups[function][begin : begin + 2]]}
        return page | ({"nextToken": str(begin + 2)} if begin + 2 < len(self.groups[function]) else {})


class Queues:
    def __init__(self, waiting):
        self.waiting = waiting

    def get_queue_attributes(self, *, QueueUrl, AttributeNames):
        assert "ApproximateNumberOfMessages" in AttributeNames
        return {
            "Attributes": dict.fromkeys(AttributeNames, "0") | {AttributeNames[0]: self.waiting[QueueUrl]}
        }


class Outputs:
    """A stage with these log lines, one claim check waiting, two dead letters, a paused pipe and failed loads."""

    redrive_queue_url, dead_letter_queue_url, database = "redrive", "dead", "MILKRUN"

    def __init__(self, **groups):
        self.clients = {"logs": Logs(groups), "sqs": Queues({"redrive": "1", "dead": "2"})}

    def aws(self, service):
        return self.clients[service]

    @contextmanager
    def warehouse(self):
        yield self

    def query(self, sql):
        if "COPY_HISTORY" in sql:
            return [{"n": 3}]
        state = "PAUSED" if "REJECTED_PIPE" in sql else "RUNNING"
        return [{"status": json.dumps({"executionState": state, "pendingFileCount": 4})}]


def written(event, **fields):
    """A canonical line as the functions print it."""
    return json.dumps(with_metrics(STAGE)(None, "info", {"event": event} | fields))


def ingested(**fields):
    return written(logs.EVENTS_INGESTED, **({"status": 202, "received": 1, "accepted": 1} | fields))


def test_counts_are_sums_over_the_lines_of_all_pages_and_times_are_percentiles():
    outputs = Outputs(
        ingest=[ingested(accepted=n, store_ms=10.0 * n) for n in range(1, 6)]
        + [ingested(status=400, accepted=0, rejected=2, rejected_by_code={"missing_id": 2})],
        consume=[
            written(logs.RECORDS_CONSUMED, consumed=7, behind_seconds=1.5),
            written(logs.RECORDS_SET_ASIDE, set_aside=1),
        ],
        redrive=[written(logs.RECORDS_REDRIVEN, redriven=3)],
    )
    panels = top.look(outputs, STAGE, 5)
    assert panels["requests"] == {"requests": 6, "answered 202": 5, "answered 400": 1, "refused": 0}
    assert panels["events"]["accepted"] == 15
    assert (panels["events"]["rejected"], panels["events"]["rejected_missing_id"]) == (2, 2)
    assert (panels["answer time, ms"]["S3 p50"], panels["answer time, ms"]["S3 p99"]) == (30, 50)
    assert panels["answer time, ms"]["Kinesis p99"] is None
    assert (panels["consumer"]["consumed"], panels["consumer"]["set_aside"]) == (7, 1)
    assert panels["consumer"]["behind, s"] == 1.5
    assert panels["redrive"]["sent again"] == 3


def test_what_waits_and_what_failed_is_asked_of_the_services_themselves():
    panels = top.look(Outputs(), STAGE, 5)
    assert panels["redrive"] == {"waiting": 1, "sent again": 0, "dead letters": 2}
    assert panels["snowpipe"] == {
        "EVENTS_PIPE": "RUNNING, 4 waiting",
        "REJECTED_PIPE": "PAUSED, 4 waiting",
        "failed loads, 3 h": 3,
    }


@pytest.mark.parametrize("noise", ["START RequestId: 1", '"text"', "[1]", "{", '{"event": "other"}'])
def test_other_lines_of_the_log_count_for_nothing(noise):
    panels = top.look(Outputs(ingest=[noise, ingested(accepted=2), noise]), STAGE, 5)
    assert panels["events"]["accepted"] == 2


def test_where_there_are_too_many_lines_it_says_that_the_figures_are_of_a_part(monkeypatch):
    monkeypatch.setattr(top, "MAX_LINES", 4)
    panels = top.look(Outputs(ingest=[ingested()] * 9), STAGE, 5)
    assert panels["note"] == {"only the first lines": 4}
    assert panels["requests"]["requests"] == 4


def test_every_panel_is_drawn_with_its_figures():
    panels = top.look(Outputs(ingest=[ingested(accepted=12)]), STAGE, 5)
    console = Console(width=160, record=True, file=StringIO())
    console.print(top.drawn(panels, STAGE, 5))
    text = console.export_text()
    assert all(title in text for title in panels)
    assert "milkrun dev, last 5 minutes" in text
    assert "PAUSED, 4 waiting" in text
    assert "–" in text  # nothing measured is not zero


def test_the_lines_since_then_are_asked_for():
    asked = []

    class Asked(Logs):
        def filter_log_events(self, **request):
            asked.append(request)
            raise NotFoundError

    outputs = Outputs()
    outputs.clients["logs"] = Asked({})
    since = datetime(2026, 11, 23, 1, tzinfo=UTC)
    assert list(top.lines(outputs, STAGE, since)) == []
    assert {request["startTime"] for request in asked} == {1795395600000}
    assert {request["logGroupName"] for request in asked} == {
        f"/aws/lambda/milkrun-dev-{name}" for name in ("ingest", "redrive", "consume", "check")
    }
