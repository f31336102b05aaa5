"""Test that no event is lost if Kinesis throttles requests, closes connections, or rejects records.

Events are published later by the redrive function; a record that Kinesis rejects permanently is quarantined.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.faults import FaultProxy, environment_of
from tests.e2e.pipeline import FARM, Event, Pipeline, crossing, event, eventually, round_trip
from tests.faults.fault_proxy import Fault

NOW = datetime.now(UTC)


@contextmanager
def kinesis_behind_a_proxy(pipeline: Pipeline) -> Iterator[FaultProxy]:
    """Put a proxy between Kinesis and the two functions that publish to it (ingest and redrive); yield the proxy."""
    with FaultProxy(pipeline.outputs.aws_endpoint_url or "").running() as proxy:
        behind = {"AWS_ENDPOINT_URL_KINESIS": proxy.url}
        with environment_of(pipeline, "ingest", behind), environment_of(pipeline, "redrive", behind):
            yield proxy


@pytest.mark.parametrize(
    "fault",
    [
        Fault.THROTTLED,
        pytest.param(Fault.CUT_BEFORE, marks=pytest.mark.slow),
        pytest.param(Fault.CUT_AFTER, marks=pytest.mark.slow),
    ],
)
def test_phones_get_202_during_a_kinesis_failure_and_their_events_arrive_afterwards(
    pipeline: Pipeline, device: str, fault: Fault
) -> None:
    sent = [list(round_trip(f"{device}-{n}", [FARM], NOW - timedelta(hours=1))) for n in range(3)]
    with kinesis_behind_a_proxy(pipeline) as kinesis:
        kinesis.fault = fault
        answers = [pipeline.post(*batch, event(f"{device}-{n}")) for n, batch in enumerate(sent)]
        assert [answer.status for answer in answers] == [202] * 3
        assert kinesis.seen > 3, "the function must retry within the request"
        if fault is not Fault.CUT_AFTER:
            assert all(pipeline.published(f"{device}-{n}") == [] for n in range(3))
        for answer, batch in zip(answers, sent, strict=True):
            assert pipeline.archived(answer.body["object_key"])[:2] == batch, (
                "the events must be archived nevertheless"
            )

        kinesis.fault = None
        for n, batch in enumerate(sent):
            eventually(arrived(pipeline, f"{device}-{n}", batch))
    for n in range(3):
        assert eventually(lambda n=n: pipeline.visits_of(f"{device}-{n}"))


@pytest.mark.slow
def test_only_throttled_records_are_resent_after_a_partial_failure(pipeline: Pipeline, device: str) -> None:
    """Kinesis throttles every second record of each attempt, so the four attempts contain 8, 4, 2 and 1
    records. The record that the last attempt could not publish goes to the redrive queue.
    """
    sent = [crossing(device, "enter", NOW - timedelta(minutes=n)) for n in range(8)]
    with kinesis_behind_a_proxy(pipeline) as kinesis:
        kinesis.fault = Fault.PARTLY
        answer = pipeline.post(*sent)
        assert (answer.status, answer.body["accepted"]) == (202, 8)
        published = pipeline.published(device)
        assert ids(published) == ids(sent[1:]), (
            "every record must be published except the first, which was throttled in each attempt"
        )
        assert len(published) == 7

        kinesis.fault = None
        eventually(arrived(pipeline, device, sent))


def test_record_rejected_permanently_by_kinesis_is_quarantined(pipeline: Pipeline, device: str) -> None:
    poison = crossing(device, "dwell", NOW, note="poison")
    sent = [crossing(device, "enter", NOW - timedelta(minutes=n)) for n in range(5)]
    with kinesis_behind_a_proxy(pipeline) as kinesis:
        kinesis.fault = Fault.INVALID
        answer = pipeline.post(*sent[:3], poison, *sent[3:])
    assert answer.status == 202
    assert ids(pipeline.published(device)) == ids(sent)
    objects = pipeline.aws("s3").list_objects_v2(Bucket=pipeline.outputs.bucket, Prefix="set-aside/")
    lines = [line for item in objects["Contents"] for line in pipeline.archived(item["Key"])]
    (line,) = (line for line in lines if line.get("event", {}).get("_id") == poison["_id"])
    assert line["origin"] == {"object_key": answer.body["object_key"], "line": "4"}
    assert line["reasons"][0]["code"] == "refused_by_stream"


@pytest.mark.slow
def test_request_gets_503_if_kinesis_and_the_redrive_queue_both_fail(pipeline: Pipeline, device: str) -> None:
    sent = crossing(device, "enter", NOW)
    nowhere = {"REDRIVE_QUEUE_URL": pipeline.outputs.redrive_queue_url + "-gone"}
    with kinesis_behind_a_proxy(pipeline) as kinesis:
        kinesis.fault = Fault.CUT_BEFORE
        with environment_of(pipeline, "ingest", nowhere):
            answer = pipeline.post(sent)
            assert (answer.status, answer.body["code"]) == (503, "unavailable")
            kinesis.fault = None
            assert pipeline.post(sent).status == 202
    assert pipeline.published(device) == [sent], (
        "the repeated request must publish the event although its object exists"
    )


def test_invalid_claim_checks_do_not_block_valid_ones(pipeline: Pipeline, device: str) -> None:
    stored = pipeline.post(crossing(device, "enter", NOW)).body["object_key"]
    sqs, queue = pipeline.aws("sqs"), pipeline.outputs.redrive_queue_url
    bucket = pipeline.outputs.bucket
    for body in ("nonsense", json.dumps({"bucket": bucket, "key": "events/gone", "lines": [1]})):
        sqs.send_message(QueueUrl=queue, MessageBody=body)
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"bucket": bucket, "key": stored, "lines": [1]}))
    try:
        assert eventually(lambda: len(pipeline.published(device)) == 2)
    finally:
        # Otherwise the invalid claim checks would be retried for hours. Other tests need an empty queue.
        sqs.purge_queue(QueueUrl=queue)


def arrived(pipeline: Pipeline, device: str, sent: list[Event]) -> Callable[[], bool]:
    return lambda: ids(pipeline.published(device)) >= ids(sent)


def ids(events: list[Event]) -> set[str]:
    return {each["_id"] for each in events}
