"""Test the consumer on the stack: events in any order, poison and aggregated records, and failures of DynamoDB and
EventBridge.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from contract.events import Fence
from ops.read_stores import Stay
from tests.e2e.faults import FaultProxy, environment_of
from tests.e2e.pipeline import FARM, Event, Pipeline, crossing, eventually, round_trip
from tests.faults.fault_proxy import Fault

NOW = datetime.now(UTC).replace(microsecond=0)
MORNING = NOW - timedelta(hours=6)
# LocalStack ends a running function when its settings change, and then waits longer before each retry.
TIMEOUT_SECONDS = 150


@contextmanager
def behind_a_proxy(pipeline: Pipeline, service: str) -> Iterator[FaultProxy]:
    """Put a proxy between the consumer and one of its AWS services; yield the proxy."""
    # Changed settings end the current batch, which is then retried. While one batch fails, LocalStack reads no
    # other shard. Therefore no batch may be in progress when a test begins or ends.
    caught_up(pipeline)
    with FaultProxy(pipeline.outputs.aws_endpoint_url or "").running() as proxy:
        behind = {f"AWS_ENDPOINT_URL_{service}": proxy.url}
        with environment_of(pipeline, "consume", behind):
            yield proxy
    caught_up(pipeline)


def caught_up(pipeline: Pipeline) -> None:
    """Wait until the consumer has processed all records.

    To detect this, put one more event on each shard and wait for its visit. The consumer processes each shard in order.
    """
    kinesis, stream = pipeline.aws("kinesis"), pipeline.outputs.stream
    last = []
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        last.append(f"last-{uuid4().hex[:12]}")
        kinesis.put_record(
            StreamName=stream,
            Data=json.dumps(crossing(last[-1], "enter", NOW)).encode(),
            PartitionKey=last[-1],
            ExplicitHashKey=shard["HashKeyRange"]["StartingHashKey"],
        )
    assert eventually(lambda: all(map(pipeline.visits_of, last)), within=TIMEOUT_SECONDS)


def put(pipeline: Pipeline, *datas: bytes, key: str) -> None:
    """Put records directly on the stream, all with the same partition key, so that one shard keeps them in order."""
    records = [{"Data": data, "PartitionKey": key} for data in datas]
    answer = pipeline.aws("kinesis").put_records(StreamName=pipeline.outputs.stream, Records=records)
    assert answer["FailedRecordCount"] == 0


def aside_of(pipeline: Pipeline, key: str) -> list[Event]:
    """Return the quarantined lines (under set-aside/) whose records had this partition key."""
    s3, bucket = pipeline.aws("s3"), pipeline.outputs.bucket
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="set-aside/")
    found = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    bodies = [s3.get_object(Bucket=bucket, Key=each)["Body"].read() for each in found]
    lines = [json.loads(line) for body in bodies for line in gzip.decompress(body).splitlines()]
    return [line for line in lines if line["origin"].get("partition_key") == key]


def shape(stays: list[Stay]) -> list[tuple[object, ...]]:
    """Return each visit's fence, entry time, exit time and missing-exit flag, without device and event ids."""
    return [(s.fence, s.entered_at, s.exited_at, s.exit_missed) for s in stays]


def flapping(device: str) -> Iterator[Event]:
    """Yield a device's events of six hours: four regular visits, three visits so close together that they are merged
    into one, a visit with a missing exit, an open visit, and an orphan exit.
    """
    farms = [Fence("farm", f"farm-{n}") for n in range(4)]
    yield from round_trip(device, farms, MORNING)
    for seconds in (0, 100, 200):
        yield crossing(device, "enter", NOW - timedelta(seconds=3600 - seconds))
        yield crossing(device, "exit", NOW - timedelta(seconds=3550 - seconds))
    yield crossing(device, "enter", NOW - timedelta(minutes=40))
    yield crossing(device, "dwell", NOW - timedelta(minutes=35))
    yield crossing(device, "enter", NOW - timedelta(minutes=20))
    yield crossing(device, "exit", NOW - timedelta(minutes=20), farms[0])


@pytest.mark.stage
def test_shuffled_and_repeated_events_produce_the_same_visits_as_ordered_events(
    pipeline: Pipeline, device: str
) -> None:
    clean, mixed = f"{device}-clean", f"{device}-mixed"
    assert pipeline.post(*flapping(clean)).status == 202
    chance = random.Random(7)
    events = list(flapping(mixed)) * 2
    chance.shuffle(events)
    for n in range(0, len(events), 9):
        assert pipeline.post(*events[n : n + 9]).status == 202

    def complete() -> list[Stay] | bool:
        found = pipeline.visits_of(clean)
        return (len(found), sum(s.exited_at is not None for s in found)) == (7, 5) and found

    expected = eventually(complete)
    assert eventually(lambda: shape(pipeline.visits_of(mixed)) == shape(expected), within=TIMEOUT_SECONDS)
    assert [s.exit_missed for s in expected].count(True) == 1
    printed = pipeline.ops("visits", "--device", mixed, "--json").result
    assert [(v["entered_event_id"], v["exit_missed"]) for v in printed] == [
        (s.entered_event_id, s.exit_missed) for s in pipeline.visits_of(mixed)
    ]
    there = pipeline.ops("visits", "--fence", f"{FARM.tag}/{FARM.external_id}", "--json").result
    assert {clean, mixed} <= {v["device_id"] for v in there}


@pytest.mark.stage
def test_poison_records_are_quarantined_and_do_not_block_other_records(
    pipeline: Pipeline, device: str
) -> None:
    enter, exit_ = crossing(device, "enter", MORNING), crossing(device, "exit", NOW)
    nameless = {key: value for key, value in enter.items() if key != "_id"}
    poison = [b"\xff\xfe", b"not json", json.dumps(nameless).encode()]
    put(pipeline, json.dumps(enter).encode(), *poison, json.dumps(exit_).encode(), key=device)
    assert eventually(lambda: [s.exited_at for s in pipeline.visits_of(device)] == [NOW])
    aside = eventually(lambda: len(found := aside_of(pipeline, device)) == 3 and found)
    codes = [reason["code"] for line in aside for reason in line["reasons"]]
    assert sorted(codes) == ["invalid_json_value", "invalid_json_value", "missing_id"]
    assert all(line["origin"]["shard_id"].startswith("shardId-") for line in aside)
    sequence_numbers = [int(line["origin"]["sequence_number"]) for line in aside]
    assert len(set(sequence_numbers)) == 3


@pytest.mark.stage
def test_every_event_in_a_record_aggregated_by_the_kpl_is_processed(pipeline: Pipeline, device: str) -> None:
    from aws_kinesis_agg.aggregator import RecordAggregator

    packed = RecordAggregator()
    for one in (crossing(device, "enter", MORNING), crossing(device, "exit", NOW)):
        packed.add_user_record(device, json.dumps(one).encode())
    _, _, data = packed.clear_and_get().get_contents()
    put(pipeline, data, key=device)
    assert eventually(lambda: [s.exited_at for s in pipeline.visits_of(device)] == [NOW])


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.CUT_AFTER])
def test_events_sent_during_a_dynamodb_failure_become_visits_after_recovery(
    pipeline: Pipeline, device: str, fault: Fault
) -> None:
    sent = list(round_trip(device, [FARM, Fence("farm", "other")], MORNING))
    with behind_a_proxy(pipeline, "DYNAMODB") as table:
        table.fault = fault
        assert pipeline.post(*sent).status == 202
        assert eventually(lambda: table.seen > 3, within=TIMEOUT_SECONDS)
        if fault is Fault.THROTTLED:
            assert pipeline.visits_of(device) == []
        table.fault = None
        assert eventually(
            lambda: [s.exit_missed for s in pipeline.visits_of(device)] == [False] * 2, within=TIMEOUT_SECONDS
        )
        assert eventually(lambda: all(s.exited_at for s in pipeline.visits_of(device)))


def test_notifications_resent_after_an_eventbridge_failure_keep_their_ids(
    pipeline: Pipeline, device: str
) -> None:
    """EventBridge accepts the notifications, but its responses are lost, so the consumer sends each notification at
    least twice.
    """
    with queue_of_notifications(pipeline) as receive, behind_a_proxy(pipeline, "EVENTBRIDGE") as bus:
        bus.fault = Fault.CUT_AFTER
        assert pipeline.post(crossing(device, "enter", MORNING), crossing(device, "exit", NOW)).status == 202
        assert eventually(
            lambda: [s.exited_at for s in pipeline.visits_of(device)] == [NOW], within=TIMEOUT_SECONDS
        )
        assert eventually(lambda: bus.seen > 2, within=TIMEOUT_SECONDS)
        bus.fault = None
        notifications: list[Event] = []

        def all_notified() -> bool:
            notifications.extend(t for t in receive() if t["detail"]["device_id"] == device)
            return Counter(t["detail-type"] for t in notifications) >= Counter(arrived=2, departed=2)

        assert eventually(all_notified, within=TIMEOUT_SECONDS)
    assert len({t["detail"]["id"] for t in notifications}) == 2


@contextmanager
def queue_of_notifications(pipeline: Pipeline) -> Iterator[Callable[[], list[Event]]]:
    """Subscribe a temporary queue to the visit notifications; yield a function that receives up to ten of them."""
    events, sqs = pipeline.aws("events"), pipeline.aws("sqs")
    functions = pipeline.aws("lambda")
    name = f"notified-{random.randrange(10**9)}"
    consume = functions.get_function_configuration(FunctionName="milkrun-local-consume")
    bus = consume["Environment"]["Variables"]["EVENT_BUS_NAME"]
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name=name, EventBusName=bus, EventPattern=json.dumps({"source": ["milkrun.visits"]}))
    events.put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": name, "Arn": arn}])

    def receive() -> list[Event]:
        found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"]) for message in found]

    try:
        yield receive
    finally:
        events.remove_targets(Rule=name, EventBusName=bus, Ids=[name])
        events.delete_rule(Name=name, EventBusName=bus)
        sqs.delete_queue(QueueUrl=url)
