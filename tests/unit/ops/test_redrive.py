"""Test the commands of `milkrun redrive` against moto's SQS."""

import json
import threading
from types import SimpleNamespace

import boto3
import pytest
import typer
from botocore.exceptions import ClientError
from moto import mock_aws
from typer.testing import CliRunner

from ops import redrive
from tests.service_models import validated


@pytest.fixture(autouse=True)
def _only_requests_valid_on_aws():
    """Check requests against the AWS service model, because moto accepts invalid requests."""
    with validated():
        yield


class Outputs:
    def __init__(self):
        sqs = boto3.client("sqs")
        self.redrive_queue_url = sqs.create_queue(QueueName="redrive")["QueueUrl"]
        self.dead_letter_queue_url = sqs.create_queue(QueueName="dead")["QueueUrl"]

    def aws(self, service, attempts=5):
        return boto3.client(service)


@pytest.fixture
def stage(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        made = Outputs()
        monkeypatch.setattr("ops.terminal.outputs_of", lambda _context, _stage: made)
        monkeypatch.setattr(redrive, "LONG_POLL_SECONDS", 0)  # with moto, a short poll finds every message
        yield made


def run(command, *arguments, answer=None):
    app = command
    if not isinstance(command, typer.Typer):
        app = typer.Typer()
        app.command()(command)
    return CliRunner().invoke(app, list(arguments), input=answer, obj={})


def in_flight(stage, url):
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = boto3.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return tuple(int(found[name]) for name in names)


@pytest.fixture
def dead(stage):
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="archive")
    s3.put_object(Bucket="archive", Key="events/k", Body=b"")
    claim, gone = (
        json.dumps({"bucket": "archive", "key": key, "lines": [1, 2]}) for key in ("events/k", "events/gone")
    )
    for body in (claim, gone, "not ours"):
        boto3.client("sqs").send_message(QueueUrl=stage.dead_letter_queue_url, MessageBody=body)
    return stage


def test_redrive_lists_each_dead_letter_without_removing_it(dead):
    done = run(redrive.command, "--json")
    assert done.exit_code == 1
    rows = json.loads(done.stdout)["dead_letters"]
    assert {(row["object_key"], row["lines"], row["object"], row["done"]) for row in rows} == {
        ("events/k", 2, "stored", "waits"),
        ("events/gone", 2, "gone", "waits"),
        ("not ours", 0, "", "waits"),
    }
    assert in_flight(dead, dead.dead_letter_queue_url) == (3, 0)


def test_send_moves_dead_letters_to_the_redrive_queue(dead):
    assert run(redrive.command, "--send", "--json").exit_code == 0
    assert in_flight(dead, dead.dead_letter_queue_url) == (0, 0)
    assert in_flight(dead, dead.redrive_queue_url) == (3, 0)


def test_redrive_subcommands_list_show_send_and_purge_dead_letters(dead):
    shown = json.loads(run(redrive.app, "show", "--json").stdout)
    assert {row["claim_check"] for row in shown} >= {"not ours"}
    assert run(redrive.app).exit_code == 1  # without a subcommand, it lists the dead letters
    assert run(redrive.app, "send").exit_code == 0
    assert in_flight(dead, dead.redrive_queue_url) == (3, 0)
    assert run(redrive.app, "purge", "--yes").exit_code == 0


def test_message_that_cannot_be_sent_stays_a_dead_letter(dead):
    boto3.client("sqs").delete_queue(QueueUrl=dead.redrive_queue_url)
    assert run(redrive.command, "--send", "--json").exit_code == 1
    assert sum(in_flight(dead, dead.dead_letter_queue_url)) == 3


def test_purge_of_dead_letters_asks_for_confirmation(dead):
    assert run(redrive.command, "--purge", answer="n\n").exit_code == 1
    assert in_flight(dead, dead.dead_letter_queue_url) == (3, 0)
    assert run(redrive.command, "--purge", "--yes").exit_code == 0
    assert in_flight(dead, dead.dead_letter_queue_url) == (0, 0)
    assert in_flight(dead, dead.redrive_queue_url) == (0, 0)


def test_dead_letters_hidden_by_an_interrupted_command_are_reported(dead):
    read = redrive.dead_letters(boto3.client("sqs"), dead.dead_letter_queue_url)
    assert next(read).body  # the command is interrupted here, and all three stay hidden for a minute
    done = run(redrive.command)
    assert done.exit_code == 1
    assert "3 claim checks hidden" in done.stderr
    assert "repeat this command in 1 minute\n" in done.stderr
    assert "no dead letters" not in done.stdout


def test_releasing_a_message_that_is_already_visible_raises_no_error():
    class Queues:
        exceptions = SimpleNamespace(ClientError=ClientError)

        def change_message_visibility(self, **_):
            raise ClientError({"Error": {"Code": "InvalidParameterValue"}}, "ChangeMessageVisibility")

    redrive.release(Queues(), "url", redrive.DeadLetter("", "receipt", None, "", 0, ""))


class LongQueue:
    """A queue of 5,000 messages. A call receives up to 10 of them and takes 0.3 s of a simulated clock."""

    def __init__(self):
        self.seconds = 0.0
        self.visible_at = dict.fromkeys(range(5_000), 0.0)

    def get_queue_attributes(self, **_):
        return {"Attributes": {"ApproximateNumberOfMessages": str(len(self.visible_at))}}

    def receive_message(self, *, VisibilityTimeout, **_):
        self.seconds += 0.3
        some = [n for n, at in self.visible_at.items() if at <= self.seconds][:10]
        self.visible_at |= dict.fromkeys(some, self.seconds + VisibilityTimeout)
        attributes = {"SentTimestamp": "0"}
        return {
            "Messages": [
                {"MessageId": str(n), "Body": str(n), "ReceiptHandle": "", "Attributes": attributes}
                for n in some
            ]
        }


def test_every_message_of_a_queue_that_takes_minutes_to_read_is_read_once():
    read = [letter.body for letter in redrive.dead_letters(LongQueue(), "url")]
    assert (len(read), len(set(read))) == (5_000, 5_000)


def test_object_state_is_shown_even_if_s3_does_not_answer_for_another_object(monkeypatch):
    monkeypatch.setattr(redrive, "BUDGET_SECONDS", 0.1)
    asked = threading.Event()

    def head_object(*, Key, **_):
        if Key == "events/slow":
            asked.wait(10)

    s3 = SimpleNamespace(head_object=head_object, exceptions=SimpleNamespace(ClientError=ClientError))
    letters = [redrive.DeadLetter("", "", None, key, 1, "b") for key in ("events/slow", "events/k", "")]
    assert redrive.object_states(s3, letters) == ["unknown", "stored", ""]
    asked.set()
