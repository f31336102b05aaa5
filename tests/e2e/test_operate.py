"""Test the operator's commands on a running stack. Most tests cause a problem that a command must report or repair."""

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from aws.table import loaded
from consumer import keys
from consumer.visits import Pair
from contract.archive_object import lines_object
from contract.events import Fence, Reason
from contract.rejected_lines import quarantine_line
from ops.read_stores import Stay
from ops.stage_outputs import ROOT
from ops.visits_items import missing_chunks
from snowpipe.warehouse import Row
from tests.e2e.faults import FaultProxy
from tests.e2e.pipeline import FARM, Event, Pipeline, crossing, event, eventually, round_trip, written
from tests.faults.fault_proxy import Fault

MORNING = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=6)
RECONCILE = ("reconcile", "--from", "30 minutes ago", "--settle", "0", "--json")


@pytest.fixture(scope="module", autouse=True)
def _local_only(pipeline: Pipeline) -> None:
    if pipeline.outputs.aws_endpoint_url is None:
        pytest.skip("these tests would break parts of a deployed stage that others use")


@contextmanager
def without_notifications(pipeline: Pipeline) -> Iterator[None]:
    """Disable the archive bucket's S3 notifications inside the `with` block."""
    s3, bucket = pipeline.aws("s3"), pipeline.outputs.bucket
    wiring = s3.get_bucket_notification_configuration(Bucket=bucket)
    wiring.pop("ResponseMetadata")
    for topic in wiring["TopicConfigurations"]:
        for rule in topic["Filter"]["Key"]["FilterRules"]:
            # LocalStack returns `Prefix`, which the AWS service model does not allow in a request.
            rule["Name"] = rule["Name"].lower()
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    try:
        yield
    finally:
        s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=wiring)


@contextmanager
def elsewhere(
    pipeline: Pipeline, folder: Path, name: str, change: Callable[[object], object]
) -> Iterator[Pipeline]:
    """Yield a pipeline whose commands read an outputs.json with one changed value."""
    outputs = json.loads((Path(pipeline.environment["MILKRUN_LOCAL"]) / "outputs.json").read_text())
    (folder / "outputs.json").write_text(json.dumps(outputs | {name: change(outputs[name])}))
    yield Pipeline(pipeline.outputs, {**pipeline.environment, "MILKRUN_LOCAL": str(folder)}, None)


def forget_pair(pipeline: Pipeline, pair: Pair) -> None:
    """Delete all items of this device and fence from the consumer's table."""
    dynamodb, name = pipeline.aws("dynamodb"), pipeline.outputs.visits_table

    def once_done() -> object:
        """Return the pair's items once every chunk of its log has been written, otherwise False. A visible visit
        does not prove this, because chunks may be written after it.
        """
        pk, first, last = keys.pair_range(pair)
        found = dynamodb.query(
            TableName=name,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={":pk": {"S": pk}, ":first": {"S": first}, ":last": {"S": last}},
        )["Items"]
        return not any(missing_chunks(map(loaded, found))) and found

    for item in eventually(once_done):
        dynamodb.delete_item(TableName=name, Key={"pk": item["pk"], "sk": item["sk"]})


def differences(result: Row, key: str) -> list[Row]:
    return [d for d in result["differences"] if d["key"] == key]


def posted(pipeline: Pipeline, *events: dict[str, object]) -> str:
    answer = pipeline.post(*events)
    assert answer.status == 202
    return str(answer.body["object_key"])


def replayed(pipeline: Pipeline, device: str) -> list[dict[str, object]]:
    """Return the device's events on the stream that have a replay label."""
    return [e for e in pipeline.published(device) if "milkrun_replay" in e]


def keep_given_up_batch(pipeline: Pipeline, device: str, events: Sequence[dict[str, object]]) -> str:
    """Write the record of a discarded batch to S3, as Lambda does when records exceed the maximum age; return its key.

    See the AWS Lambda Developer Guide, "Retain discarded batch records".
    """
    [mapping] = pipeline.aws("lambda").list_event_source_mappings(FunctionName="milkrun-local-consume")[
        "EventSourceMappings"
    ]
    now = datetime.now(UTC)
    stamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    records = [
        {
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": device,
                "sequenceNumber": f"4967{n:052d}",
                "data": base64.b64encode(json.dumps(each).encode()).decode(),
                "approximateArrivalTimestamp": now.timestamp(),
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"shardId-000000000000:4967{n:052d}",
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": "arn:aws:iam::000000000000:role/consume",
            "awsRegion": pipeline.outputs.region,
            "eventSourceARN": mapping["EventSourceArn"],
        }
        for n, each in enumerate(events)
    ]
    kept = {
        "requestContext": {
            "requestId": str(uuid4()),
            "functionArn": mapping["FunctionArn"],
            "condition": "RecordAgeExceeded",
            "approximateInvokeCount": 40,
        },
        "responseContext": {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": "Unhandled",
        },
        "version": "1.0",
        "timestamp": stamp,
        "KinesisBatchInfo": {
            "shardId": "shardId-000000000000",
            "startSequenceNumber": records[0]["kinesis"]["sequenceNumber"],
            "endSequenceNumber": records[-1]["kinesis"]["sequenceNumber"],
            "approximateArrivalOfFirstRecord": stamp,
            "approximateArrivalOfLastRecord": stamp,
            "batchSize": len(records),
            "streamArn": mapping["EventSourceArn"],
        },
        "payload": json.dumps({"Records": records}),
    }
    key = (
        f"aws/lambda/{mapping['UUID']}/shardId-000000000000/{now:%Y/%m/%d}/{now:%Y-%m-%dT%H.%M.%S}-{uuid4()}"
    )
    pipeline.aws("s3").put_object(Bucket=pipeline.outputs.bucket, Key=key, Body=json.dumps(kept).encode())
    return key


def verdict_on(pipeline: Pipeline, part: str) -> str:
    return next(p["level"] for p in pipeline.ops("status", "--json").result["parts"] if p["part"] == part)


# --- reconcile


@dataclass
class Compared:
    """The events and object keys of each problem that the fixture caused, and the results of `reconcile` without and
    with --repair. All events are from one device.
    """

    deleted_row: tuple[str, list[Event]]
    deleted_rows: tuple[str, Event]
    no_notification: tuple[list[str], Event]
    not_consumed: tuple[str, list[Event], Stay]
    not_archived: str
    before: Row = field(default_factory=dict)
    repaired: Row = field(default_factory=dict)


@pytest.fixture(scope="module")
def compared(pipeline: Pipeline) -> Iterator[Compared]:
    """Cause all problems in Compared at once, run `reconcile` first without and then with --repair, and yield the
    problems with both results.
    """
    device = f"e2e-{uuid4().hex[:12]}"
    three, one, unseen, gone = [event(device) for _ in range(3)], event(device), event(device), event(device)
    enter, exit_ = round_trip(device, [FARM], MORNING)
    # RFC 3339 allows a lower-case `t` and `z`, but Python's parser rejects the `z`.
    enter["createdAt"] = enter["createdAt"].lower()
    keys_ = [posted(pipeline, *sent) for sent in (three, [one], [enter, exit_], [gone])]
    with without_notifications(pipeline):
        receipt = pipeline.post(unseen, event(device, createdAt="yesterday")).body
        [visit] = eventually(lambda: [v for v in pipeline.visits_of(device) if v.exited_at])
        eventually(lambda: all(pipeline.raw_rows(e["_id"]) for e in (three[2], one, exit_, gone)))
        delete = "DELETE FROM {db}.RAW.EVENTS WHERE file_name = %s"
        pipeline.rows(f"{delete} AND file_row_number = 2", keys_[0])
        pipeline.rows(delete, keys_[1])
        forget_pair(pipeline, Pair(device, FARM))
        assert pipeline.visits_of(device) == []
        pipeline.aws("s3").delete_object(Bucket=pipeline.outputs.bucket, Key=keys_[3])
        made = Compared(
            (keys_[0], three),
            (keys_[1], one),
            ([receipt["object_key"], receipt["rejected_key"]], unseen),
            (keys_[2], [enter, exit_], visit),
            keys_[3],
        )
        ran = pipeline.ops(*RECONCILE)
        assert (ran.exit_code, pipeline.raw_rows(unseen["_id"])) == (1, [])
        made.before = ran.result
    made.repaired = pipeline.ops(*RECONCILE, "--repair").result
    yield made
    pipeline.rows("DELETE FROM {db}.RAW.EVENTS WHERE file_name = %s", made.not_archived)


def test_reconcile_reports_a_row_deleted_from_raw_and_loads_it_again(
    pipeline: Pipeline, compared: Compared
) -> None:
    key, sent = compared.deleted_row
    [difference] = differences(compared.before, key)
    assert (difference["kind"], difference["events"]) == ("rows_differ", [sent[1]["_id"]])
    assert differences(compared.repaired, key) == []
    assert any(row["key"] == key and "COPY" in row["did"] for row in compared.repaired["repaired"])
    assert [len(pipeline.raw_rows(e["_id"])) for e in sent] == [1, 1, 1]


def test_reconcile_reloads_deleted_rows_although_their_file_is_in_the_load_history(
    pipeline: Pipeline, compared: Compared
) -> None:
    key, sent = compared.deleted_rows
    [difference] = differences(compared.before, key)
    assert difference["kind"] == "not_loaded"
    assert differences(compared.repaired, key) == []
    assert len(pipeline.raw_rows(sent["_id"])) == 1


def test_reconcile_reports_and_loads_an_object_without_an_s3_notification(
    pipeline: Pipeline, compared: Compared
) -> None:
    found, sent = compared.no_notification
    assert [differences(compared.before, key)[0]["kind"] for key in found] == ["not_loaded", "not_loaded"]
    assert [differences(compared.repaired, key) for key in found] == [[], []]
    assert any(row["key"] == found[0] and "REFRESH" in row["did"] for row in compared.repaired["repaired"])
    assert len(pipeline.raw_rows(sent["_id"])) == 1


def test_reconcile_reports_and_resends_geofence_events_lost_by_the_consumer(
    pipeline: Pipeline, compared: Compared
) -> None:
    key, sent, visit = compared.not_consumed
    found = differences(compared.before, key)
    assert sorted((d["kind"], d["line"], *d["events"]) for d in found) == [
        ("not_consumed", line, each["_id"]) for line, each in enumerate(sent, 1)
    ]
    assert differences(compared.repaired, key) == []
    assert pipeline.visits_of(visit.device_id) == [visit]


def test_reconcile_reports_an_object_deleted_from_s3_as_not_archived(compared: Compared) -> None:
    for result in (compared.before, compared.repaired):
        [difference] = differences(result, compared.not_archived)
        assert difference["kind"] == "not_archived"


def test_reconcile_of_a_range_without_events_finds_no_difference(pipeline: Pipeline) -> None:
    ran = pipeline.ops("reconcile", "--from", "20 days ago", "--to", "20 days ago", "--json")
    assert ran.exit_code == 0
    assert ran.result["equal"] is True
    assert ran.result["differences"] == []


def test_reconcile_reports_an_unreachable_warehouse_instead_of_success(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    # Nothing listens on port 9, the discard port.
    with elsewhere(pipeline, tmp_path, "snowflake", lambda known: known | {"port": 9}) as broken:
        ran = broken.ops(*RECONCILE)
    assert ran.exit_code == 2
    # `reconcile` still compares the log with S3, which may differ because of other tests on this stack.
    assert ran.result["equal"] is (False if ran.result["differences"] else None)
    assert "Snowflake" in ran.result["problem"]


@pytest.mark.slow
def test_file_that_snowpipe_cannot_load_is_reported_until_it_is_deleted(
    pipeline: Pipeline, device: str, tmp_path: Path
) -> None:
    good, torn = event(device), f'{{"_id": "torn-{device}", "type":'
    made = lines_object("events", [json.dumps(good).encode(), torn.encode()], datetime.now(UTC))
    s3, bucket = pipeline.aws("s3"), pipeline.outputs.bucket
    s3.put_object(Bucket=bucket, Key=made.key, Body=made.body)
    eventually(lambda: verdict_on(pipeline, "failed loads") == "WARN")
    [difference] = differences(pipeline.ops(*RECONCILE).result, made.key)
    assert difference["kind"] == "not_loaded"
    tried = pipeline.ops(*RECONCILE, "--repair")
    assert tried.exit_code == 1
    assert any(row["key"] == made.key and "failed" in row["did"].lower() for row in tried.result["repaired"])
    assert differences(tried.result, made.key) != []

    # Follow the runbook: send the events through the API again, then delete the object.
    (tmp_path / "again.ndjson.gz").write_bytes(made.body)
    sent = pipeline.ops("send", "--file", str(tmp_path / "again.ndjson.gz"), "--json").result
    assert (sent["accepted"], sent["rejected"]) == (1, {"not_json": 1})
    s3.delete_object(Bucket=bucket, Key=made.key)
    assert eventually(lambda: pipeline.raw_rows(good["_id"]))
    assert differences(pipeline.ops(*RECONCILE).result, made.key) == []


# --- rejects


def test_rejected_events_are_listed_repaired_and_resent_once(pipeline: Pipeline, device: str) -> None:
    crossings = list(round_trip(device, [FARM], MORNING))
    for sent in crossings:
        sent["created"] = sent.pop("createdAt")
    answer = pipeline.post(*crossings)
    assert answer.status == 400
    chosen = ("--device", device, "--from", "1 hour ago", "--json")
    listed = pipeline.ops("rejects", *chosen)
    assert (listed.exit_code, [row["rejects"] for row in listed.result]) == (1, [2])
    repair = ("rejects", "send", *chosen, "--rename", "created=createdAt")
    dry = pipeline.ops(*repair, "--dry-run")
    assert (dry.exit_code, dry.result["would_be_accepted"]) == (0, 2)
    assert pipeline.ops(*repair).result["accepted"] == 2
    [visit] = eventually(lambda: [v for v in pipeline.visits_of(device) if v.exited_at])
    assert visit.entered_event_id == crossings[0]["_id"]
    again = pipeline.ops(*repair)
    assert (again.exit_code, again.result["found"]) == (0, 0)
    [row] = eventually(lambda: pipeline.raw_rows(crossings[0]["_id"]))
    assert row["payload"]["milkrun_resent"] == f"{answer.body['rejected_key']}:1"
    assert differences(pipeline.ops(*RECONCILE).result, row["file_name"]) == []


# --- replay


def test_replay_restores_lost_visits_and_labels_the_replayed_events(pipeline: Pipeline, device: str) -> None:
    fences = [FARM, Fence("plant", "plant-e2e")]
    sent = list(round_trip(device, fences, MORNING))
    posted(pipeline, *sent, event(device))
    before = eventually(
        lambda: (v := pipeline.visits_of(device)) and len(v) == 2 and all(x.exited_at for x in v) and v
    )
    for fence in fences:
        forget_pair(pipeline, Pair(device, fence))
    chosen = ("replay", "--from", "30 minutes ago", "--device", device, "--json")
    dry = pipeline.ops(*chosen, "--dry-run").result
    assert (dry["would_send"], dry["sent"]) == (4, 0)
    assert dry["dollars"] > 0
    assert pipeline.visits_of(device) == []
    replayed = pipeline.ops(*chosen).result
    assert replayed["sent"] == 4
    assert eventually(lambda: (v := pipeline.visits_of(device)) == before and v)
    labels = [e.get("milkrun_replay") for e in pipeline.published(device)]
    assert sorted(filter(None, labels)) == [replayed["label"]] * 4
    assert labels.count(None) == 4


def started(pipeline: Pipeline, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program that SIGINT can interrupt; return its process."""
    # A process that a shell starts in the background ignores SIGINT, and so do its child processes.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=pipeline.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, ours)
    return running


@pytest.mark.slow
def test_replay_interrupted_by_ctrl_c_continues_where_it_stopped_when_run_again(
    pipeline: Pipeline, device: str
) -> None:
    fences = [Fence("farm", f"farm-{n}") for n in range(5)]
    sent = list(round_trip(device, fences, MORNING))
    own = {posted(pipeline, *two) for two in batched(sent, 2, strict=True)}
    before = eventually(
        lambda: (v := pipeline.visits_of(device)) and len(v) == 5 and all(x.exited_at for x in v) and v
    )
    for fence in fences:
        forget_pair(pipeline, Pair(device, fence))
    chosen = ("replay", "--from", "30 minutes ago", "--device", device, "--json")
    progress = Path(pipeline.environment["MILKRUN_LOCAL"]) / "replay"
    known = set(progress.glob("local-*.json"))

    running = started(pipeline, "-m", "ops", *chosen, "--rate", "1")

    def under_way() -> bool:
        """Return whether the replay has passed at least two of the test's objects.

        Reads the progress file, because reading the stream may take longer than the whole replay.
        """
        files = set(progress.glob("local-*.json")) - known
        last_key = max((json.loads(each.read_text())["last_key"] for each in files), default="")
        return sum(key <= last_key for key in own) >= 2

    try:
        eventually(under_way)
        running.send_signal(signal.SIGINT)
        said, problem = running.communicate(timeout=60)
    finally:
        running.kill()  # has no effect if the process has exited
    assert (running.returncode, said) == (130, "")
    assert "run the same command to continue" in problem
    assert "Traceback" not in problem
    first = replayed(pipeline, device)
    assert 4 <= len(first) < 10
    # A dry run counts the events that the next run will send, and does not make that run start from the beginning.
    dry = pipeline.ops(*chosen, "--dry-run").result

    result = pipeline.ops(*chosen).result
    assert dry["would_send"] == result["sent"]
    assert {e["_id"] for e in replayed(pipeline, device)} == {e["_id"] for e in sent}
    # At most the two events of the object that was in progress are sent twice.
    assert 10 <= len(first) + result["sent"] <= 12
    assert eventually(lambda: (v := pipeline.visits_of(device)) == before and v)
    assert set(progress.glob("local-*.json")) == known


def test_replay_resends_all_events_of_discarded_batches(pipeline: Pipeline, device: str) -> None:
    sent = list(round_trip(device, [FARM], MORNING))
    posted(pipeline, *sent)
    before = eventually(lambda: [v for v in pipeline.visits_of(device) if v.exited_at])
    forget_pair(pipeline, Pair(device, FARM))  # as if the consumer had never received the events
    key = keep_given_up_batch(pipeline, device, sent)
    dry = pipeline.ops("replay", "--on-failure", "--dry-run", "--json").result
    assert key in dry["batches"]
    assert dry["sent"] == 0
    assert dry["would_send"] >= 2
    assert pipeline.visits_of(device) == []

    done = pipeline.ops("replay", "--on-failure", "--json").result
    assert key in done["batches"]
    assert eventually(lambda: (v := pipeline.visits_of(device)) == before and v)
    assert {e["milkrun_replay"] for e in replayed(pipeline, device)} == {done["label"]}


def test_replay_of_events_older_than_80_days_is_refused(pipeline: Pipeline) -> None:
    ran = pipeline.ops("replay", "--from", "100 days ago")
    assert ran.exit_code == 2
    assert "80 days old" in ran.output


# --- trace


def test_trace_lists_all_steps_of_an_event_in_order(pipeline: Pipeline, device: str) -> None:
    enter = crossing(device, "enter", MORNING)
    key = posted(pipeline, event(device), enter)
    eventually(lambda: pipeline.raw_rows(enter["_id"]))
    eventually(lambda: pipeline.visits_of(device))
    ran = pipeline.ops("where", enter["_id"], "--json")
    assert ran.exit_code == 0
    steps = {step["what"]: step for step in ran.result["steps"]}
    assert {"received", "archived", "answered", "published", "consumed", "in a visit", "loaded"} <= set(steps)
    assert steps["answered"]["detail"]["published"] == 1
    assert 0 < steps["consumed"]["lag_s"] < 60
    assert steps["archived"]["detail"] == {"key": key, "line": 2}
    assert steps["published"]["detail"]["shard"].startswith("shardId-")
    assert steps["loaded"]["lag_s"] < 30
    times = [step["at"] for step in ran.result["steps"] if step["at"]]
    assert times == sorted(times)


def test_trace_shows_a_rejected_event_with_its_reasons(pipeline: Pipeline, device: str) -> None:
    bad = event(device, createdAt="yesterday")
    answer = pipeline.post(event(device), bad)
    key = answer.body["rejected_key"]
    eventually(lambda: pipeline.rows("SELECT 1 AS one FROM {db}.RAW.REJECTED WHERE file_name = %s", key))
    steps = {step["what"]: step for step in pipeline.ops("where", bad["_id"], "--json").result["steps"]}
    assert "invalid_created_at" in steps["rejected"]["detail"]["reasons"]
    assert steps["archived"]["detail"]["key"] == key


def test_trace_shows_a_quarantined_event_with_its_reason(pipeline: Pipeline, device: str) -> None:
    enter = crossing(device, "enter", MORNING)
    posted(pipeline, enter)
    eventually(lambda: pipeline.raw_rows(enter["_id"]) and pipeline.visits_of(device))
    forget_pair(pipeline, Pair(device, FARM))
    line = quarantine_line([Reason("odd_one", "x", "This one is odd.")], json.dumps(enter).encode(), {})
    aside = lines_object("set-aside", [line], datetime.now(UTC))
    s3, bucket = pipeline.aws("s3"), pipeline.outputs.bucket
    s3.put_object(Bucket=bucket, Key=aside.key, Body=aside.body)
    try:
        steps = {step["what"]: step for step in pipeline.ops("where", enter["_id"], "--json").result["steps"]}
        assert "not consumed" in steps
        assert "odd_one x: This one is odd." in steps["set aside"]["detail"]["reasons"]
    finally:
        s3.delete_object(Bucket=bucket, Key=aside.key)


def test_trace_finds_an_unloaded_event_in_the_archive(pipeline: Pipeline, device: str) -> None:
    sent = event(device)
    with without_notifications(pipeline):
        key = posted(pipeline, sent)
        ran = pipeline.ops("where", sent["_id"], "--from", "30 minutes ago", "--json")
    steps = {step["what"]: step for step in ran.result["steps"]}
    assert steps["archived"]["detail"] == {"key": key, "line": 1}
    assert "not loaded" in steps
    assert any("objects of events/" in searched for searched in ran.result["searched"])
    pipeline.ops("warehouse", "refresh")


def test_trace_finds_an_object_by_its_key(pipeline: Pipeline, device: str) -> None:
    sent = event(device)
    key = posted(pipeline, sent, event(device))
    eventually(lambda: pipeline.raw_rows(sent["_id"]))
    steps = {step["what"]: step for step in pipeline.ops("where", key, "--json").result["steps"]}
    assert steps["archived"]["detail"] == {"key": key, "lines": 2}
    assert steps["loaded"]["detail"]["rows"] == 2


def test_trace_of_an_unknown_event_lists_the_searched_stores(pipeline: Pipeline) -> None:
    ran = pipeline.ops("where", "no-such-event", "--from", "10 minutes ago", "--json")
    assert ran.exit_code == 1
    assert ran.result["steps"] == []
    assert len(ran.result["searched"]) >= 4


# --- send, visits


def test_send_counts_every_event_by_outcome_and_reports_the_latency(pipeline: Pipeline) -> None:
    ran = pipeline.ops(
        "send", "--events", "60", "--trucks", "2", "--invalid", "0.05", "--seed", "3", "--json"
    )
    assert ran.exit_code == 0
    figures = ran.result
    assert figures["events"] == 60
    assert figures["undelivered"] == 0
    assert figures["accepted"] + figures["duplicates"] + sum(figures["rejected"].values()) == 60
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]


def test_send_counts_undelivered_events_and_delivers_them_when_run_again(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    same_run = ("send", "--events", "40", "--trucks", "2", "--farms", "4", "--run", uuid4().hex[:8])
    same_run += (
        "--invalid",
        "0",
        "--duplicates",
        "0",
        "--late",
        "0",
        "--begin",
        MORNING.isoformat(),
        "--json",
    )
    with (
        FaultProxy(pipeline.outputs.aws_endpoint_url or "").running() as proxy,
        elsewhere(pipeline, tmp_path, "endpoint", lambda url: proxy.url + urlsplit(url).path) as broken,
    ):
        proxy.fault = Fault.REFUSED
        ran = broken.ops(*same_run, "--patience", "0.5")
        assert ran.exit_code == 1
        assert ran.result["undelivered"] == 40
        assert set(ran.result["statuses"]) == {"500"}
        proxy.fault = None
        ran = broken.ops(*same_run)
    assert ran.exit_code == 0
    assert (ran.result["undelivered"], ran.result["accepted"]) == (0, 40)


def test_missing_exit_event_is_reported_until_it_arrives(pipeline: Pipeline, device: str) -> None:
    fence = Fence("farm", f"farm-of-{device}")
    enter, exit_ = round_trip(device, [fence], MORNING)
    again = crossing(device, "enter", MORNING + timedelta(hours=1), fence)
    posted(pipeline, enter, again)

    def shown(*options: str) -> list[Row]:
        return list(pipeline.ops("visits", *options, "--json").result)

    first, last = eventually(lambda: (v := shown("--device", device)) and len(v) == 2 and v)
    assert (first["exited_at"], first["exit_missed"]) == (None, True)
    assert (last["exited_at"], last["exit_missed"]) == (None, False)
    [there] = shown("--fence", f"{fence.tag}/{fence.external_id}")
    assert (there["device_id"], there["entered_event_id"]) == (device, again["_id"])

    leave = crossing(device, "exit", MORNING + timedelta(hours=2), fence)
    posted(pipeline, exit_, leave)
    visits = eventually(lambda: [v for v in shown("--device", device) if v["exited_at"]][1:])
    assert visits[0]["exited_event_id"] == leave["_id"]
    assert [v["exit_missed"] for v in shown("--device", device)] == [False, False]
    assert shown("--fence", f"{fence.tag}/{fence.external_id}") == []


# --- quarantine


def test_quarantined_record_is_listed_resent_and_purged(pipeline: Pipeline, device: str) -> None:
    def mine(*options: str) -> list[dict[str, object]]:
        shown = pipeline.ops("set-aside", "invalid_json_value", *options, "--json").result
        return [row for row in shown if row["partition_key"] == device]

    pipeline.aws("kinesis").put_record(
        StreamName=pipeline.outputs.stream, Data=b"not an event", PartitionKey=device
    )
    [found] = eventually(mine)
    assert found["reasons"] == "invalid_json_value"

    again = pipeline.ops("set-aside", found["object_key"], "--send", "--json")
    assert again.result["sent"] >= 1
    assert eventually(lambda: len(mine()) >= 2), "the resent record was not quarantined again"
    for row in mine():
        gone = pipeline.ops("set-aside", row["object_key"], "--purge", "--yes", "--json")
        assert gone.exit_code == 0
    assert mine() == []


# --- demo


@pytest.mark.slow
def test_live_demo_moves_trucks_until_ctrl_c_and_then_prints_its_totals(pipeline: Pipeline) -> None:
    began = written(datetime.now(UTC))
    trucks = ("truck-01", "truck-02")
    running = started(pipeline, "-m", "tools.milkrun", "demo", "--live", "--trucks", "2", "--json")

    def positions() -> list[set[str]]:
        """Return, for each truck, the distinct positions in RAW.EVENTS of the events created since the demo began."""
        sql = (
            "SELECT payload:user.deviceId::VARCHAR AS truck, payload:location AS at FROM {db}.RAW.EVENTS"
            " WHERE payload:live AND payload:createdAt::VARCHAR >= %s"
        )
        rows = pipeline.rows(sql, began)
        return [{row["at"] for row in rows if row["truck"] == truck} for truck in trucks]

    try:
        assert eventually(lambda: all(len(seen) >= 3 for seen in positions()), within=90, every=1)
    finally:
        running.send_signal(signal.SIGINT)
        said, noted = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "/map" in noted
    assert "Traceback" not in noted
    figures = json.loads(said)
    assert (figures["accepted"], figures["undelivered"]) == (figures["events"], 0)
    sql = (
        "SELECT COUNT(*) AS n FROM {db}.RAW.EVENTS"
        " WHERE payload:user.deviceId IN (%s, %s) AND payload:createdAt::VARCHAR >= %s"
    )
    eventually(lambda: pipeline.rows(sql, *trucks, began)[0]["n"] == figures["events"])
