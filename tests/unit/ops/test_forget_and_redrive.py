"""forget and redrive as an operator runs them, on moto's S3, DynamoDB and SQS."""

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO

import boto3
import pyarrow.parquet as parquet
import pytest
import typer
from moto import mock_aws
from typer.testing import CliRunner

from aws.table import DynamoTable, dumped
from consumer import keys
from consumer.pair_log import Chunk, PairLog, chunk_item, log_item
from consumer.store import Store
from consumer.visit_diff import Rule
from consumer.visits import pair_of
from contract.events import GEOFENCE_KINDS, geofence_event
from contract.objects import lines_object, lines_of
from glue.archive import Hours
from glue.compact import compact_with_duckdb, stale
from ops import forget, redrive
from tests.service_models import validated
from tests.unit.consumer.fakes import FakeBus, Inline

HOUR = datetime(2026, 11, 16, 8, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _requests_are_those_that_aws_accepts():
    """moto takes `AttributeNames=["SentTimestamp"]`, which AWS's model has not."""
    with validated():
        yield


class Outputs:
    """A stage on moto, and a warehouse that is a list of rows."""

    bucket, visits_table, database = "archive", "visits", "MILKRUN"

    def __init__(self):
        self.rows = []  # (table, file_name)
        self.built = []  # what dbt was told, each time
        sqs = boto3.client("sqs")
        self.redrive_queue_url = sqs.create_queue(QueueName="redrive")["QueueUrl"]
        self.dead_letter_queue_url = sqs.create_queue(QueueName="dead")["QueueUrl"]
        boto3.client("s3").create_bucket(Bucket=self.bucket)
        boto3.client("s3").put_bucket_versioning(
            Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"}
        )
        boto3.client("dynamodb").create_table(
            TableName=self.visits_table,
            KeySchema=[{"AttributeName": n, "KeyType": k} for n, k in (("pk", "HASH"), ("sk", "RANGE"))],
            AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")],
            BillingMode="PAY_PER_REQUEST",
        )

    def aws(self, service):
        return boto3.client(service)

    @contextmanager
    def warehouse(self):
        yield self

    def query(self, sql, parameters):
        table = sql.split(".RAW.")[1].split()[0]
        matching = [row for row in self.rows if row == (table, parameters[0])]
        if sql.startswith("SELECT COUNT(*)"):
            return [{"n": len(matching)}]
        assert sql.startswith("DELETE FROM MILKRUN.RAW.")
        self.rows = [row for row in self.rows if row not in matching]
        return []

    def load(self):
        """What Snowpipe does: each object of events/ once, whatever became of it later."""
        for key in self.keys("events/"):
            if ("EVENTS", key) not in self.rows:
                self.rows += [("EVENTS", key)] * len(self.lines(key))

    def keys(self, prefix=""):
        found = boto3.client("s3").list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", ())]

    def lines(self, key):
        return lines_of(boto3.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def archive(self, *events):
        made = lines_object("events", [json.dumps(e).encode() for e in events], HOUR)
        boto3.client("s3").put_object(Bucket=self.bucket, Key=made.key, Body=made.body)
        return made.key

    def consumed(self, *events):
        """What the consumer keeps of each."""
        crossings = [geofence_event(json.dumps(event).encode()) for event in events]
        table = DynamoTable(boto3.client("dynamodb"), self.visits_table, Inline())
        for crossing in crossings:
            assert Store(table, FakeBus(), Rule(), Inline()).add({pair_of(crossing): [crossing]})

    def items(self):
        return boto3.client("dynamodb").scan(TableName=self.visits_table)["Items"]


@pytest.fixture
def stage(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        made = Outputs()
        monkeypatch.setattr("ops.terminal.outputs_of", lambda _context, _stage: made)
        monkeypatch.setattr(forget, "geofence_kinds", lambda _outputs, _stage: GEOFENCE_KINDS)
        monkeypatch.setattr(
            forget, "build_marts", lambda _environment, *said: made.built.append(said) or True
        )
        yield made


def run(command, *arguments, answer=None):
    app = command
    if not isinstance(command, typer.Typer):
        app = typer.Typer()
        app.command()(command)
    return CliRunner().invoke(app, list(arguments), input=answer, obj={})


def entered(event_id, user, device):
    return {
        "_id": event_id,
        "type": "user.entered_geofence",
        "createdAt": "2026-11-16T08:00:00.000Z",
        "user": {"userId": user, "deviceId": device},
        "geofence": {"tag": "farm", "externalId": "farm-1"},
    }


ANN, BOB = entered("a1", "ann", "phone-1"), entered("b1", "bob", "phone-2")


def test_what_a_consumer_is_still_writing_is_waited_for(stage):
    """A change's log stands before its chunks: what came after the look would stay for ever."""
    stage.archive(ANN)
    log, chunk = log_and_chunk()
    dynamodb = boto3.client("dynamodb")
    dynamodb.put_item(TableName=stage.visits_table, Item=log)
    stage.load()
    consumer = threading.Timer(
        0.5, dynamodb.put_item, kwargs={"TableName": stage.visits_table, "Item": chunk}
    )
    consumer.start()
    done = run(forget.command, "--user", "ann", "--yes", "--json")
    consumer.join()
    assert done.exit_code == 0, done.output
    assert stage.items() == []


def log_and_chunk():
    """A log whose last change asks for a chunk, and that chunk."""
    ann = geofence_event(json.dumps(ANN).encode())
    chunk = Chunk(keys.chunk_key(pair_of(ann), 1, 0), None, (ann,))
    log = PairLog(1, (), None, True, (chunk,))
    items = log_item(pair_of(ann), log, Rule()), chunk_item(pair_of(ann), chunk, log)
    return map(dumped, items)


def test_a_change_that_was_broken_off_is_not_waited_for_for_ever(stage, monkeypatch):
    monkeypatch.setattr(forget, "CHANGE_SECONDS", 0.3)
    stage.archive(ANN)
    stage.load()
    log, _ = log_and_chunk()
    boto3.client("dynamodb").put_item(TableName=stage.visits_table, Item=log)
    done = run(forget.command, "--user", "ann", "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert stage.items() == []


def test_everything_of_one_person_goes_and_nothing_of_anybody_else(stage):
    mixed, own = stage.archive(ANN, BOB), stage.archive(ANN | {"_id": "a2"})
    untouched = stage.archive(BOB | {"_id": "b2"})
    stage.load()
    stage.consumed(ANN, BOB)

    first = run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0")
    assert first.exit_code == 1, first.output
    [rest] = json.loads(first.stdout)["not_loaded_yet"]
    assert {mixed, own} <= set(stage.keys("events/"))  # nothing goes before the rest is loaded
    assert ("EVENTS", mixed) in stage.rows
    assert stage.built == []

    stage.load()
    second = run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0")
    assert second.exit_code == 0, second.output
    report = json.loads(second.stdout)
    assert (report["objects_deleted"], report["raw_rows_deleted"]) == (2, 3)
    assert stage.built == [("--full-refresh",)]  # incremental models never delete
    assert report["next"] == []
    assert set(stage.keys("events/")) == {rest, untouched}
    assert [json.loads(line)["_id"] for line in stage.lines(rest)] == ["b1"]
    assert {file for _, file in stage.rows} == {rest, untouched}
    assert [item["pk"]["S"].split("#")[0] for item in stage.items()] == ["phone-2"]
    versions = boto3.client("s3").list_object_versions(Bucket=stage.bucket)
    kept = {v["Key"] for v in [*versions.get("Versions", ()), *versions.get("DeleteMarkers", ())]}
    assert not {mixed, own} & kept
    assert (
        "ann"
        not in boto3.client("s3").get_object(Bucket=stage.bucket, Key=report["plan"])["Body"].read().decode()
    )


def test_again_changes_nothing(stage):
    stage.archive(ANN)
    stage.load()
    assert run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0").exit_code == 0
    again = run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["raw_rows_deleted"] == 0


def test_a_device_that_somebody_else_used_there_too_is_named_to_be_replayed(stage):
    others = entered("b3", "bob", "phone-1")
    stage.archive(ANN, others)
    stage.load()
    stage.consumed(ANN, others)
    run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0")
    stage.load()
    report = json.loads(run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0").stdout)
    assert stage.items() == []
    assert report["visits_to_make_again"] == [
        {"device_id": "phone-1", "tag": "farm", "external_id": "farm-1"}
    ]
    assert report["next"] == [
        "milkrun replay --from '79 days ago' --device phone-1   # other people used it too"
    ]


def test_while_the_marts_still_have_the_rows_it_is_not_done_and_says_so(stage, monkeypatch):
    stage.archive(ANN)
    stage.load()
    monkeypatch.setattr(forget, "build_marts", lambda *_: False)
    asked = ("--user", "ann", "--yes", "--json", "--patience", "0")
    for arguments in (asked, (*asked, "--no-marts")):
        done = run(forget.command, *arguments)
        assert done.exit_code == 1
        assert "dbt build --full-refresh" in json.loads(done.stdout)["next"][0]


def test_of_whom_nothing_is_known_nothing_is_built(stage):
    stage.archive(BOB)
    assert run(forget.command, "--user", "ann", "--yes", "--json").exit_code == 0
    assert stage.built == []


@pytest.mark.parametrize("nobody", ["", " "])
def test_nobody_is_not_taken_for_everybody(stage, nobody):
    body = b"not readable"
    made = lines_object("rejected", [json.dumps({"body_base64": body.hex()}).encode()], HOUR)
    boto3.client("s3").put_object(Bucket=stage.bucket, Key=made.key, Body=made.body)
    assert run(forget.command, "--user", nobody, "--yes").exit_code == 2
    assert stage.keys() == [made.key]


def test_broken_off_before_the_parquet_is_anew_the_same_command_makes_it(stage, monkeypatch):
    store = forget.ArchiveBucket(boto3.client("s3"), stage.bucket)
    hours = Hours(HOUR, HOUR + timedelta(hours=1))
    stage.archive(ANN)
    stage.archive(BOB)
    stage.load()
    list(compact_with_duckdb(store, stale(store, hours)))

    def broken_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forget.archive, "compact_with_duckdb", broken_off)
        run(forget.command, "--user", "ann", "--yes", "--json")
    assert len(stage.keys("events/")) == 1

    assert run(forget.command, "--user", "ann", "--yes", "--json").exit_code == 0
    rows = [
        row
        for key in stage.keys("compacted/dt=")
        for row in parquet.read_table(BytesIO(store.read(key))).column("payload").to_pylist()
    ]
    assert [json.loads(row)["_id"] for row in rows] == ["b1"]


def test_claim_checks_that_wait_are_told_of_because_what_they_name_is_gone(dead):
    dead.archive(ANN)
    dead.load()
    report = json.loads(run(forget.command, "--user", "ann", "--yes", "--json").stdout)
    assert [step.split(" #")[0].strip() for step in report["next"]] == ["milkrun reconcile --repair"]


def test_without_a_yes_nothing_is_touched(stage):
    key = stage.archive(ANN)
    assert run(forget.command, "--user", "ann", answer="n\n").exit_code == 1
    assert stage.keys() == [key]


def in_flight(stage, url):
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = boto3.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return tuple(int(found[name]) for name in names)


@pytest.fixture
def dead(stage):
    claim = json.dumps({"bucket": "archive", "key": "events/k", "lines": [1, 2]})
    for body in (claim, "not ours"):
        boto3.client("sqs").send_message(QueueUrl=stage.dead_letter_queue_url, MessageBody=body)
    return stage


def test_a_look_names_each_dead_letter_and_leaves_it_there(dead):
    done = run(redrive.command, "--json")
    assert done.exit_code == 1
    rows = json.loads(done.stdout)["dead_letters"]
    assert {(row["object_key"], row["lines"], row["done"]) for row in rows} == {
        ("events/k", 2, "waits"),
        ("not ours", 0, "waits"),
    }
    assert in_flight(dead, dead.dead_letter_queue_url) == (2, 0)


def test_send_puts_them_back_into_the_redrive_queue(dead):
    assert run(redrive.command, "--send", "--json").exit_code == 0
    assert in_flight(dead, dead.dead_letter_queue_url) == (0, 0)
    assert in_flight(dead, dead.redrive_queue_url) == (2, 0)


def test_each_verb_does_what_its_option_does(dead):
    shown = json.loads(run(redrive.app, "show", "--json").stdout)
    assert {row["claim_check"] for row in shown} >= {"not ours"}
    assert run(redrive.app).exit_code == 1  # without a verb: list
    assert run(redrive.app, "send").exit_code == 0
    assert in_flight(dead, dead.redrive_queue_url) == (2, 0)
    assert run(redrive.app, "purge", "--yes").exit_code == 0


def test_what_could_not_be_put_back_is_still_a_dead_letter(dead):
    boto3.client("sqs").delete_queue(QueueUrl=dead.redrive_queue_url)
    assert run(redrive.command, "--send", "--json").exit_code == 1
    assert sum(in_flight(dead, dead.dead_letter_queue_url)) == 2


def test_purge_asks_first(dead):
    assert run(redrive.command, "--purge", answer="n\n").exit_code == 1
    assert in_flight(dead, dead.dead_letter_queue_url) == (2, 0)
    assert run(redrive.command, "--purge", "--yes").exit_code == 0
    assert in_flight(dead, dead.dead_letter_queue_url) == (0, 0)
    assert in_flight(dead, dead.redrive_queue_url) == (0, 0)
