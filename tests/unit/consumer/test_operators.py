"""Test the commands that read or migrate the visits table, and that resend, export or purge quarantined records."""

import base64
import json
import random
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from aws.table import dumped
from consumer import main, previous_layout
from consumer.visits import Rule, visits_of
from contract.events import Fence
from ops import move_visits, quarantine, reachable_stores, read_stores, visits
from ops.presence_rule import EXCLUSIVE_TAGS, presence
from tests.unit.ops.test_presence_rule import delivery_rounds
from tools.milkrun import app

from .strategies import START, as_json, batch_of, event
from .test_aws import Context

FARM, PLANT = Fence("farm", "a#/b"), Fence("plant", "1")


def consume(*datas, first: int = 1):
    main.app_of.cache_clear()
    assert main.consume(batch_of(datas, first=first), Context()) == {"batchItemFailures": []}


def test_visits_of_a_device_are_listed_in_order_from_a_given_time(aws):
    consume(
        *map(as_json, [
            event("enter", 0, "a", fence=FARM), event("exit", 60, "b", fence=FARM),
            event("enter", 3600, "c", fence=PLANT), event("enter", 100, "d", device="other", fence=FARM),
            event("exit", 50, "orphan", fence=Fence("farm", "elsewhere")),
        ])
    )  # fmt: skip
    found = visits.visits_of_device(aws.client("dynamodb"), aws.table, "truck-1")
    assert found == [
        {
            "device_id": "truck-1", "geofence_tag": "farm", "geofence_external_id": "a#/b",
            "entered_at": "2026-11-16T08:00:00.000000Z", "exited_at": "2026-11-16T08:01:00.000000Z",
            "dwell_seconds": 60.0, "entered_event_id": "a", "exited_event_id": "b", "exit_missed": False,
        },
        {
            "device_id": "truck-1", "geofence_tag": "plant", "geofence_external_id": "1",
            "entered_at": "2026-11-16T09:00:00.000000Z", "exited_at": None,
            "dwell_seconds": None, "entered_event_id": "c", "exited_event_id": None, "exit_missed": False,
        },
    ]  # fmt: skip
    later = visits.visits_of_device(
        aws.client("dynamodb"), aws.table, "truck-1", START + timedelta(minutes=1)
    )
    assert [v["entered_event_id"] for v in later] == ["c"]


def test_devices_inside_a_fence_are_listed_in_order_of_entry(aws):
    consume(
        *map(as_json, [
            event("enter", 0, "a", fence=FARM), event("exit", 60, "b", fence=FARM),
            event("enter", 300, "d", device="truck-3", fence=FARM),
            event("enter", 100, "c", device="truck-2", fence=FARM),
            event("enter", 0, "e", device="truck-4", fence=PLANT),
            event("enter", 0, "f", device="truck-5", fence=FARM),
            event("enter", 400, "g", device="truck-5", fence=FARM),
        ])
    )  # fmt: skip
    found = visits.visits_at_fence(aws.client("dynamodb"), aws.table, FARM)
    assert [(v["device_id"], v["entered_event_id"]) for v in found] == [
        ("truck-2", "c"),
        ("truck-3", "d"),
        ("truck-5", "g"),
    ]


def contradicted(aws, device, tags=EXCLUSIVE_TAGS):
    found = visits.contradictions_of_device(aws.client("dynamodb"), aws.table, device, tags, Rule)
    rows = visits.with_presence(visits.visits_of_device(aws.client("dynamodb"), aws.table, device), found)
    open_rows = [row for row in rows if row["exited_at"] is None and not row["exit_missed"]]
    return {
        (row["device_id"], row["geofence_external_id"]): row["contradicted_by_event_id"] for row in open_rows
    }


def by_rule(events, device, tags=EXCLUSIVE_TAGS):
    return {
        (device, each.pair.fence.external_id): each.contradicted_by and each.contradicted_by.event_id
        for each in presence(events, tags)
        if each.pair.device_id == device
    }


def test_later_enter_elsewhere_contradicts_an_open_visit(aws):
    some = [
        event("enter", 0, "a", fence=FARM), event("enter", 3600, "b", fence=PLANT),
        event("enter", 30, "r", fence=Fence("region", "north")),
    ]  # fmt: skip
    consume(*map(as_json, some))
    assert contradicted(aws, "truck-1") == by_rule(some, "truck-1")
    rows = visits.with_presence(
        visits.visits_of_device(aws.client("dynamodb"), aws.table, "truck-1"),
        visits.contradictions_of_device(aws.client("dynamodb"), aws.table, "truck-1", EXCLUSIVE_TAGS, Rule),
    )
    assert [(row["entered_event_id"], row["contradicted_by_event_id"]) for row in rows] == [
        ("r", None), ("b", None), ("a", "b"),
    ]  # fmt: skip
    assert rows[-1]["exit_inferred_at"] == "2026-11-16T09:00:00.000000Z"
    assert rows[-1]["exited_at"] is None, "the visit itself was rewritten"


@pytest.mark.parametrize("seed", range(6))
def test_contradicted_visits_match_the_presence_rule_on_random_events(aws, seed):
    """The events include quick re-entries, superseded events and equal times, and are added in random order."""
    rng = random.Random(seed)
    fences = [FARM, Fence("farm", "2"), PLANT, Fence("region", "north")]
    some = [
        event(
            rng.choice(["enter", "enter", "dwell", "exit"]), rng.randrange(0, 900, 30), f"e{rng.randrange(20)}",
            device=rng.choice(["truck-1", "truck#2"]), fence=rng.choice(fences),
        )
        for _ in range(60)
    ]  # fmt: skip
    consume(*map(as_json, some))
    for device in ("truck-1", "truck#2"):
        assert contradicted(aws, device) == by_rule(some, device)


def test_contradicted_visits_match_the_presence_rule_on_real_delivery_rounds(aws):
    found = delivery_rounds()
    vans = {each.pair.device_id for each in presence(found, ("stop",)) if each.contradicted_by}
    some = [each for each in found if each.device_id in vans]
    assert len(vans) == 15
    for start in range(0, len(some), 200):
        consume(*map(as_json, some[start : start + 200]), first=start + 1)
    for van in vans:
        assert contradicted(aws, van, ("stop",)) == by_rule(some, van, ("stop",))


def outputs(aws, tmp_path):
    path = tmp_path / "outputs.json"
    nothing = dict.fromkeys(("endpoint", "api_key", "redrive_queue_url", "dead_letter_queue_url"), "")
    names = {"aws_endpoint_url": aws.url, "region": "us-east-1", "bucket": aws.bucket, "stream": aws.stream}
    snowflake = dict.fromkeys(
        ("account", "host", "protocol", "user", "password", "database", "warehouse"), "x"
    )
    path.write_text(
        json.dumps({**nothing, **names, "visits_table": aws.table, "snowflake": snowflake | {"port": 1}})
    )
    return {"MILKRUN_LOCAL": str(tmp_path)}


def run(environment, *args):
    result = CliRunner().invoke(app, list(args), obj=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_visits_command_lists_visits_by_device_or_fence_as_json_or_as_a_table(aws, tmp_path):
    consume(as_json(event("enter", 0, "a", fence=FARM)))
    environment = outputs(aws, tmp_path)
    (visit,) = json.loads(run(environment, "visits", "--device", "truck-1", "--json"))
    assert list(visit) == [*visits.FIELDS, "contradicted_by_event_id", "exit_inferred_at"]
    assert json.loads(run(environment, "visits", "--fence", "farm/a#/b", "--json")) == [visit]
    assert json.loads(run(environment, "visits", "--device", "nobody", "--json")) == []
    assert "truck-1" in run(environment, "visits", "--device", "truck-1", "--since", "2026-01-01")


def test_visits_command_says_that_visits_are_kept_for_90_days_if_since_is_earlier(aws, tmp_path):
    environment = outputs(aws, tmp_path)
    for since, said in (("91 days ago", True), ("89 days ago", False)):
        ran = CliRunner().invoke(
            app, ["visits", "--device", "d", "--since", since, "--json"], obj=environment
        )
        assert (json.loads(ran.stdout), "keeps visits for 90 days" in ran.stderr) == ([], said)


def test_visits_command_fails_at_its_deadline_if_lambda_does_not_respond(aws, tmp_path, monkeypatch):
    """To mark contradicted visits, the command reads the visit rule from the configuration of the Lambda function
    `consume`.
    """
    consume(as_json(event("enter", 0, "a", fence=FARM)), as_json(event("enter", 600, "b", fence=PLANT)))
    hangs = threading.Event()
    monkeypatch.setattr(read_stores, "rule", lambda *_: hangs.wait(5))
    monkeypatch.setattr(reachable_stores, "BUDGET_SECONDS", 0.05)
    ran = CliRunner().invoke(app, ["visits", "--device", "truck-1"], obj=outputs(aws, tmp_path))
    hangs.set()
    assert "no answer from Lambda within 0.05 s" in str(ran.exception)


def stream_of(aws) -> list[bytes]:
    kinesis = aws.client("kinesis")
    found = []
    for shard in kinesis.list_shards(StreamName=aws.stream)["Shards"]:
        it = kinesis.get_shard_iterator(
            StreamName=aws.stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )
        found += [r["Data"] for r in kinesis.get_records(ShardIterator=it["ShardIterator"])["Records"]]
    return sorted(found)


def test_quarantined_records_are_resent_with_the_same_content(aws, tmp_path):
    bad, worse = as_json(event("enter", 0)).replace(b"createdAt", b"madeAt"), b"\xff\x00"
    consume(bad, worse)
    environment = outputs(aws, tmp_path)
    assert json.loads(run(environment, "replay", "--set-aside", "set-aside/dt=2026-11-16/", "--json")) == {
        "found": 2, "written": 0, "sent": 2, "by_reason": {"missing_created_at": 1, "invalid_json_value": 1},
    }  # fmt: skip
    assert [json.loads(d) if d != worse else d for d in stream_of(aws)] == [json.loads(bad), worse]
    again = json.loads(run(environment, "replay", "--set-aside", "invalid_json_value", "--json"))
    assert again["sent"] == 1
    assert len(stream_of(aws)) == 3


def test_quarantined_records_can_be_exported_for_repair(aws, tmp_path):
    bad = as_json(event("enter", 0)).replace(b"createdAt", b"madeAt")
    consume(bad, b"not json")
    file = tmp_path / "repair.ndjson"
    found = json.loads(
        run(outputs(aws, tmp_path), "replay", "--set-aside", "set-aside/", "--to-file", str(file), "--json")
    )
    assert (found["written"], found["sent"], stream_of(aws)) == (2, 0, [])
    assert [json.loads(line) for line in file.read_text().splitlines()] == [json.loads(bad), "not json"]


def test_quarantined_record_keeps_its_partition_key(aws):
    consume(b"\xff")
    (aside,) = quarantine.set_aside(aws.client("s3"), aws.bucket, "set-aside/", [])
    assert (aside.partition_key, aside.data, aside.line) == ("truck-1", b"\xff", 1)
    assert base64.b64encode(aside.data) == b"/w=="


def attempt(environment, *args, answer=""):
    return CliRunner().invoke(app, list(args), obj=environment, input=answer, catch_exceptions=False)


def test_quarantined_records_are_listed_resent_and_purged(aws, tmp_path):
    bad = as_json(event("enter", 0)).replace(b"createdAt", b"madeAt")
    consume(bad, b"not json")
    environment = outputs(aws, tmp_path)
    look = attempt(environment, "set-aside", "--json")
    assert look.exit_code == 1
    assert [row["reasons"] for row in json.loads(look.stdout)] == ["missing_created_at", "invalid_json_value"]
    assert json.loads(run(environment, "set-aside", "missing_created_at", "--send", "--json")) == {"sent": 1}
    assert [json.loads(data) for data in stream_of(aws)] == [json.loads(bad)]

    assert attempt(environment, "set-aside", "--purge", answer="n\n").exit_code == 1
    assert len(json.loads(attempt(environment, "set-aside", "--json").stdout)) == 2
    run(environment, "set-aside", "--purge", "--yes")
    assert json.loads(run(environment, "set-aside", "--json")) == []


def test_purge_by_reason_keeps_objects_that_also_contain_records_with_other_reasons(aws, tmp_path):
    consume(as_json(event("enter", 0)).replace(b"createdAt", b"madeAt"), b"not json")
    environment = outputs(aws, tmp_path)
    purged = attempt(environment, "set-aside", "invalid_json_value", "--purge", "--yes", "--json")
    assert purged.exit_code == 1
    assert len(json.loads(purged.stdout)["kept_for_other_records"]) == 1
    assert len(json.loads(attempt(environment, "set-aside", "--json").stdout)) == 2


@pytest.mark.parametrize("name", ["set-aside/by-hand.ndjson", "set-aside/dt=2026-11-16/hh=08/copy.ndjson"])
def test_quarantined_objects_with_custom_keys_are_listed_and_purged(aws, tmp_path, name):
    text = b'\xef\xbb\xbf{"reasons": [{"code": "invalid_event"}], "event": {"_id": "e1"}}\r\n\r\n'
    s3 = aws.client("s3")
    for key, body in ((name, text), ("set-aside/", b""), ("set-aside/empty.ndjson", b"")):
        s3.put_object(Bucket=aws.bucket, Key=key, Body=body)
    found = quarantine.set_aside(s3, aws.bucket, "invalid_event", unreadable := [])
    assert [(each.key, each.line, each.data) for each in found] == [(name, 1, b'{"_id": "e1"}')]
    assert unreadable == []
    purged = quarantine.purge(s3, aws.bucket, quarantine.set_aside(s3, aws.bucket, "set-aside/", []))
    assert purged == (1, [])
    kept = s3.list_objects_v2(Bucket=aws.bucket)["Contents"]
    assert {each["Key"] for each in kept} == {"set-aside/", "set-aside/empty.ndjson"}


def test_dry_run_counts_quarantined_records_and_sends_nothing(aws, tmp_path):
    consume(b"\xff")
    found = json.loads(
        run(outputs(aws, tmp_path), "replay", "--set-aside", "set-aside/", "--dry-run", "--json")
    )
    assert (found["found"], found["sent"], stream_of(aws)) == (1, 0, [])


def test_unreadable_quarantine_object_does_not_hide_the_others(aws, tmp_path):
    consume(b"[" * 100_000, b"\xff")
    for name in ("readme.txt", "dt=2026-11-16/hh=08/torn.ndjson.gz"):
        aws.client("s3").put_object(Bucket=aws.bucket, Key=f"set-aside/{name}", Body=b"\x1f\x8bno gzip")
    environment = outputs(aws, tmp_path)
    look = attempt(environment, "set-aside", "--json")
    assert look.exit_code == 1
    assert [row["bytes"] for row in json.loads(look.stdout)] == [100_000, 1]
    assert "readme.txt cannot be read" in look.stderr
    file = tmp_path / "repair.ndjson"
    replay = attempt(environment, "replay", "--set-aside", "set-aside/", "--to-file", str(file), "--json")
    assert (replay.exit_code, len(json.loads(replay.stdout)["unreadable"])) == (1, 2)
    assert len(file.read_text().splitlines()) == 2


@pytest.mark.parametrize("option", ["--json", "--send", "--purge"])
def test_set_aside_command_fails_and_keeps_a_quarantine_object_that_is_unreadable(aws, tmp_path, option):
    aws.client("s3").put_object(Bucket=aws.bucket, Key="set-aside/torn", Body=b"\x1f\x8bno gzip")
    environment = outputs(aws, tmp_path)
    assert attempt(environment, "set-aside", option).exit_code == 1
    (kept,) = aws.client("s3").list_objects_v2(Bucket=aws.bucket, Prefix="set-aside/")["Contents"]
    assert kept["Key"] == "set-aside/torn"


def test_move_visits_command_migrates_all_items_to_the_current_layout(aws, tmp_path, monkeypatch):
    cases = json.loads(Path(__file__).with_name("previous_layout.json").read_text())
    (case,) = (case for case in cases if case["name"] == "random 0")
    dynamodb = aws.client("dynamodb")
    for item in case["items"]:
        dynamodb.put_item(TableName=aws.table, Item=dumped(item))
    now = START.timestamp()  # no item has expired at this time
    monkeypatch.setattr(previous_layout, "time", SimpleNamespace(time=lambda: now))
    settings = main.Settings.of(aws.environment)
    monkeypatch.setattr(move_visits.read_stores, "consumer_settings", lambda *_: settings)
    environment = outputs(aws, tmp_path)
    moved = json.loads(run(environment, "move-visits", "--json"))
    assert moved["items_deleted"] == len(case["items"])
    assert json.loads(run(environment, "move-visits", "--json")) == {"pairs_moved": 0, "items_deleted": 0}
    known = {}
    for each in case["events"]:
        one = event(each.pop("kind"), each.pop("seconds"), **each)
        known.setdefault(one.device_id, []).append(one)
    for device, some in known.items():
        expected = [(pair, v) for pair, history in visits_of(some).items() for v in history.visits]
        found = read_stores.device_visits(dynamodb, aws.table, device)
        assert sorted(map(str, found)) == sorted(map(str, expected))
    assert moved["pairs_moved"] == len(visits_of([e for some in known.values() for e in some]))
    assert aws.received_notifications() == []
