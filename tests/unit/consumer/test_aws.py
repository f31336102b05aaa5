"""Test the consumer function as Lambda calls it, with moto's DynamoDB, S3 and EventBridge."""

import gzip
import json
import os
import random
import subprocess
import sys

import pytest
import structlog

from consumer import batch_log, main
from consumer.visits import Pair, visits_of
from contract.events import Fence
from ops import read_stores

from .conftest import Aws
from .strategies import as_json, batch_of, event

HOME = Pair("truck-1", Fence("farm", "7"))
ENTER, EXIT = event("enter", 0, "a"), event("exit", 600, "b", minutes=9.9)


class Context:
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def consume(*datas: bytes | str, first: int = 1, stream: str = "geofence"):
    main.app_of.cache_clear()
    batch_log.log = structlog.get_logger()  # the first use of a logger binds it to the current stdout
    return main.consume(batch_of(datas, first=first, stream=stream), Context())


def stored_visits(aws: Aws, pair: Pair = HOME):
    found = read_stores.device_visits(aws.client("dynamodb"), aws.table, pair.device_id)
    return [visit for of, visit in found if of == pair]


def test_batch_is_stored_as_visits_and_each_notification_is_sent_once(aws, capsys):
    later = event("enter", 3600, "c")
    assert consume(as_json(EXIT), as_json(ENTER), as_json(ENTER), as_json(later)) == {"batchItemFailures": []}
    assert stored_visits(aws) == list(visits_of([ENTER, EXIT, later])[HOME].visits)
    notifications = aws.received_notifications()
    assert sorted((t["detail-type"], t["detail"]["visit"]["entered_event_id"]) for t in notifications) == [
        ("arrived", "a"), ("arrived", "c"), ("departed", "a"),
    ]  # fmt: skip
    assert consume(as_json(ENTER), as_json(later), first=5) == {"batchItemFailures": []}
    assert aws.received_notifications() == []
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["event"], line["consumed"], line["repeated"], line["request_id"]) == (
        "records_consumed",
        2,
        2,
        "request-1",
    )
    assert (line["first_sequence_number"], line["last_sequence_number"]) == ("5", "6")


def test_poison_records_are_quarantined_with_reason_shard_and_sequence_number(aws, capsys):
    assert consume(as_json(ENTER), b"\xff", b'{"type":1}') == {"batchItemFailures": []}
    assert consume(as_json(ENTER), b"\xff", b'{"type":1}') == {"batchItemFailures": []}
    s3 = aws.client("s3")
    (found,) = s3.list_objects_v2(Bucket=aws.bucket)["Contents"]
    assert found["Key"].startswith("set-aside/dt=2026-11-16/hh=10/")
    first, second = map(
        json.loads,
        gzip.decompress(s3.get_object(Bucket=aws.bucket, Key=found["Key"])["Body"].read()).splitlines(),
    )
    assert (first["record_base64"], first["reasons"][0]["code"]) == ("/w==", "invalid_json_value")
    assert (second["event"], second["origin"]["shard_id"], second["origin"]["sequence_number"]) == (
        {"type": 1}, "shardId-000000000000", "3",
    )  # fmt: skip
    line = next(json.loads(t) for t in capsys.readouterr().out.splitlines() if "records_set_aside" in t)
    assert (line["set_aside_key"], line["lines"], "_aws" in line) == (found["Key"], 2, True)


def test_records_that_do_not_come_from_the_configured_stream_are_quarantined(aws, capsys):
    assert consume(as_json(ENTER), stream="other") == {"batchItemFailures": []}
    line = next(json.loads(t) for t in capsys.readouterr().out.splitlines() if "records_set_aside" in t)
    assert line["codes"] == ["wrong_stream"]
    assert stored_visits(aws) == []


def test_log_of_a_batch_does_not_grow_with_the_number_of_invalid_records(aws, capsys):
    assert consume(*[b"\xff" * 10_000] * 500) == {"batchItemFailures": []}
    said = capsys.readouterr()
    assert len((said.out + said.err).splitlines()) == 2
    assert len(said.out + said.err) < 2_000


def test_batch_is_retried_from_its_first_geofence_event_if_the_table_is_missing(aws, capsys):
    aws.client("dynamodb").delete_table(TableName=aws.table)
    assert consume(b"\xff", as_json(ENTER), as_json(EXIT)) == {"batchItemFailures": [{"itemIdentifier": "2"}]}
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["stopped_at"] == "2"
    assert "ResourceNotFound" in line["failure"]


def test_missing_setting_is_named_in_the_error(aws, monkeypatch):
    monkeypatch.delenv("VISITS_TABLE")
    with pytest.raises(ValueError, match="VISITS_TABLE"):
        consume(as_json(ENTER))


def test_importing_the_function_loads_neither_boto3_nor_botocore_nor_protobuf():
    code = """import sys, consumer.main
print([m for m in ('boto3', 'botocore', 'google.protobuf') if m in sys.modules])"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PATH": ""}
    )
    assert found.stdout.strip() == "[]"


WORKER = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from consumer import main
batches = json.load(sys.stdin)
class Context:
    aws_request_id = "w"
    def get_remaining_time_in_millis(self): return 60000
for batch in batches:
    for _ in range(100):
        if not main.consume(batch, Context())["batchItemFailures"]:
            break
    else:
        sys.exit(1)
"""


def test_visits_are_correct_after_one_of_two_processes_that_share_a_device_is_killed(aws):
    chance = random.Random(4)
    kinds = ["enter", "exit", "dwell"]
    all_events = [event(chance.choice(kinds), 20 * chance.randrange(60), f"e{n % 70}") for n in range(90)]
    chance.shuffle(all_events)
    shares = [
        [batch_of([as_json(e) for e in share[n : n + 6]], first=n) for n in range(0, len(share), 6)]
        for share in (all_events[::2], all_events[1::2])
    ]

    def start(share):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | aws.environment,
        )
        worker.stdin.write(json.dumps(share))
        worker.stdin.close()
        return worker

    workers = [start(share) for share in shares]
    for line in workers[0].stdout:  # kill it while it processes its fourth batch
        if line.count("records_consumed") and json.loads(line)["first_sequence_number"] == "12":
            break
    else:
        pytest.fail("the first process ended before it could be killed")
    workers[0].kill()
    workers[0].wait()
    workers.append(start(shares[0]))
    for worker in workers[1:]:
        worker.stdout.read()
        assert worker.wait() == 0
    assert stored_visits(aws) == list(visits_of(all_events)[HOME].visits)
