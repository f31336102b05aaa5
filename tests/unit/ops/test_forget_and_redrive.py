"""Test `forget` and `redrive` as an operator runs them, on moto's S3, DynamoDB and SQS."""

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

from aws.table import Table, dumped
from consumer import keys
from consumer.item_layout import Chunk, PairLog, chunk_item, log_item
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
def _only_requests_valid_on_aws():
    """moto accepts `AttributeNames=["SentTimestamp"]`, which the AWS service model does not contain."""
    with validated():
        yield


class Outputs:
    """A stage on moto whose warehouse is a list of rows."""

    bucket, visits_table, database = "archive", "visits", "MILKRUN"

    def __init__(self):
        self.rows = []  # (table, file_name)
        self.built = []  # the arguments of each dbt run
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

    def aws(self, service, attempts=5):
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
        """Load each object under events/ once, as Snowpipe does, even if it is deleted later."""
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
        """Store the events as the consumer does."""
        crossings = [geofence_event(json.dumps(event).encode()) for event in events]
        table = Table(boto3.client("dynamodb"), self.visits_table, Inline())
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


def test_forget_waits_for_a_change_that_the_consumer_is_writing(stage):
    """The consumer writes the log before the chunks. A chunk written after the search would remain forever."""
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
    """Return a log whose last change refers to a chunk, and that chunk."""
    ann = geofence_event(json.dumps(ANN).encode())
    chunk = Chunk(keys.chunk_key(pair_of(ann), 1, 0), None, (ann,))
    log = PairLog(1, (), None, True, (chunk,))
    items = log_item(pair_of(ann), log, Rule()), chunk_item(pair_of(ann), chunk, log)
    return map(dumped, items)


def test_forget_does_not_wait_forever_for_an_interrupted_change(stage, monkeypatch):
    monkeypatch.setattr(forget, "CHANGE_SECONDS", 0.3)
    stage.archive(ANN)
    stage.load()
    log, _ = log_and_chunk()
    boto3.client("dynamodb").put_item(TableName=stage.visits_table, Item=log)
    done = run(forget.command, "--user", "ann", "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert stage.items() == []


def test_everything_of_one_person_is_deleted_and_nothing_else(stage):
    mixed, own = stage.archive(ANN, BOB), stage.archive(ANN | {"_id": "a2"})
    untouched = stage.archive(BOB | {"_id": "b2"})
    stage.load()
    stage.consumed(ANN, BOB)

    first = run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0")
    assert first.exit_code == 1, first.output
    [rest] = json.loads(first.stdout)["not_loaded_yet"]
    assert {mixed, own} <= set(stage.keys("events/"))  # nothing is deleted before the replacement is loaded
    assert ("EVENTS", mixed) in stage.rows
    assert stage.built == []

    stage.load()
    second = run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0")
    assert second.exit_code == 0, second.output
    report = json.loads(second.stdout)
    assert (report["objects_deleted"], report["raw_rows_deleted"]) == (2, 3)
    assert stage.built == [("--full-refresh",)]  # incremental models never delete rows
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


def test_repeated_forget_changes_nothing(stage):
    stage.archive(ANN)
    stage.load()
    assert run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0").exit_code == 0
    again = run(forget.command, "--user", "ann", "--yes", "--json", "--patience", "0")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["raw_rows_deleted"] == 0


def test_shared_device_is_named_with_the_replay_command_for_it(stage):
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


def test_forget_is_incomplete_while_the_marts_contain_the_rows(stage, monkeypatch):
    stage.archive(ANN)
    stage.load()
    monkeypatch.setattr(forget, "build_marts", lambda *_: False)
    asked = ("--user", "ann", "--yes", "--json", "--patience", "0")
    for arguments in (asked, (*asked, "--no-marts")):
        done = run(forget.command, *arguments)
        assert done.exit_code == 1
        assert "dbt build --full-refresh" in json.loads(done.stdout)["next"][0]


def test_unknown_person_starts_no_build(stage):
    stage.archive(BOB)
    assert run(forget.command, "--user", "ann", "--yes", "--json").exit_code == 0
    assert stage.built == []


@pytest.mark.parametrize("nobody", ["", " "])
def test_empty_user_is_refused(stage, nobody):
    body = b"not readable"
    made = lines_object("rejected", [json.dumps({"body_base64": body.hex()}).encode()], HOUR)
    boto3.client("s3").put_object(Bucket=stage.bucket, Key=made.key, Body=made.body)
    assert run(forget.command, "--user", nobody, "--yes").exit_code == 2
    assert stage.keys() == [made.key]


def test_interrupted_forget_rewrites_the_parquet_files_when_repeated(stage, monkeypatch):
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


def test_waiting_claim_checks_are_reported_with_the_next_command(dead):
    dead.archive(ANN)
    dead.load()
    report = json.loads(run(forget.command, "--user", "ann", "--yes", "--json").stdout)
    assert [step.split(" #")[0].strip() for step in report["next"]] == ["milkrun reconcile --repair"]


def test_declined_confirmation_changes_nothing(stage):
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


def test_redrive_lists_each_dead_letter_without_removing_it(dead):
    done = run(redrive.command, "--json")
    assert done.exit_code == 1
    rows = json.loads(done.stdout)["dead_letters"]
    assert {(row["object_key"], row["lines"], row["done"]) for row in rows} == {
        ("events/k", 2, "waits"),
        ("not ours", 0, "waits"),
    }
    assert in_flight(dead, dead.dead_letter_queue_url) == (2, 0)


def test_send_moves_dead_letters_to_the_redrive_queue(dead):
    assert run(redrive.command, "--send", "--json").exit_code == 0
    assert in_flight(dead, dead.dead_letter_queue_url) == (0, 0)
    assert in_flight(dead, dead.redrive_queue_url) == (2, 0)


def test_each_subcommand_does_the_same_as_its_option(dead):
    shown = json.loads(run(redrive.app, "show", "--json").stdout)
    assert {row["claim_check"] for row in shown} >= {"not ours"}
    assert run(redrive.app).exit_code == 1  # without a subcommand: list
    assert run(redrive.app, "send").exit_code == 0
    assert in_flight(dead, dead.redrive_queue_url) == (2, 0)
    assert run(redrive.app, "purge", "--yes").exit_code == 0


def test_message_that_cannot_be_sent_stays_a_dead_letter(dead):
    boto3.client("sqs").delete_queue(QueueUrl=dead.redrive_queue_url)
    assert run(redrive.command, "--send", "--json").exit_code == 1
    assert sum(in_flight(dead, dead.dead_letter_queue_url)) == 2


def test_purge_asks_for_confirmation(dead):
    assert run(redrive.command, "--purge", answer="n\n").exit_code == 1
    assert in_flight(dead, dead.dead_letter_queue_url) == (2, 0)
    assert run(redrive.command, "--purge", "--yes").exit_code == 0
    assert in_flight(dead, dead.dead_letter_queue_url) == (0, 0)
    assert in_flight(dead, dead.redrive_queue_url) == (0, 0)
