"""Each part broken under load; then every promise must hold. What each came to stands in docs/reliability.md.

All of them begin while phones send, and end when everything has arrived. Five are marked `short`.
"""

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.test_kcl import Worker
from tests.faults.proxy import Fault, Rule
from tests.faults.story import Story, met
from tests.faults.yard import wait_for
from tools.fleet.rounds import Post
from tools.stack.kcl import environment_for

short = pytest.mark.short

# --- S3


@short
def test_s3_refuses_every_put(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.REFUSED, "s3", "PutObject", "ingest")
        with story.broken(fault):
            met(fault, 12)


def test_s3_stores_and_its_answers_are_lost(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.CUT_AFTER, "s3", "PutObject", "ingest", share=0.7, seed=story.seed)
        with story.broken(fault):
            met(fault, 25)


def test_s3_says_nothing_and_keeps_the_connection(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.SILENT, "s3", "PutObject", "ingest", share=0.5, seed=story.seed)
        with story.broken(fault):
            met(fault, 12)


def test_s3_throttles_every_second_put(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.THROTTLED, "s3", "PutObject", share=0.5, seed=story.seed)
        with story.broken(fault):
            met(fault, 20)


def test_phones_break_while_s3_refuses(story: Story) -> None:
    """They take their batches along. Nothing is published that is not archived, so nobody hears of those."""
    with story.under_load(breaking=True):
        fault = Rule(Fault.REFUSED, "s3", "PutObject", "ingest")
        with story.broken(fault):
            met(fault, 12)


# --- Kinesis and the redrive queue


@short
def test_kinesis_throttles_every_call_until_the_redrive_queue_fills(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.THROTTLED, "kinesis")
        with story.broken(fault):
            met(fault, 20)


def test_kinesis_takes_every_second_record(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.PARTLY, "kinesis", "PutRecords")
        with story.broken(fault):
            met(fault, 20)


def test_kinesis_takes_records_and_its_answers_are_lost(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.CUT_AFTER, "kinesis", "PutRecords", share=0.6, seed=story.seed)
        with story.broken(fault):
            met(fault, 20)


def test_kinesis_answers_with_nonsense_and_with_half_an_answer(story: Story) -> None:
    with story.under_load():
        nonsense = Rule(Fault.WRONG_BYTES, "kinesis", "PutRecords", share=0.4, seed=story.seed)
        half = Rule(Fault.HALF_ANSWER, "kinesis", "PutRecords", share=0.5, seed=story.seed)
        with story.broken(nonsense, half):
            met(nonsense, 8)
            met(half, 8)


def test_kinesis_and_the_redrive_queue_refuse_both(story: Story) -> None:
    with story.under_load():
        stream, queue = Rule(Fault.CUT_BEFORE, "kinesis"), Rule(Fault.REFUSED, "sqs", "SendMessage")
        with story.broken(stream, queue):
            met(queue, 6)


def test_claim_checks_find_neither_kinesis_nor_their_object(story: Story) -> None:
    with story.under_load():
        first = Rule(Fault.REFUSED, "kinesis", caller="ingest")
        then = Rule(Fault.REFUSED, "s3", "GetObject", "redrive", times=6)
        at_last = Rule(Fault.THROTTLED, "kinesis", caller="redrive", times=6)
        with story.broken(first, then, at_last):
            met(first, 15)
            met(then, 4)


# --- DynamoDB


@short
def test_dynamodb_writes_and_its_answers_are_lost(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.CUT_AFTER, "dynamodb", caller="consume", share=0.3, seed=story.seed)
        with story.broken(fault):
            met(fault, 5)  # a quick machine makes large batches, and few calls


def test_dynamodb_throttles_half_of_all_calls(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.THROTTLED, "dynamodb", caller="consume", share=0.5, seed=story.seed)
        with story.broken(fault):
            met(fault, 10)


def test_dynamodb_leaves_half_of_every_batch_undone(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.PARTLY, "dynamodb", "Batch*", "consume", share=0.6, seed=story.seed)
        with story.broken(fault):
            met(fault, 4)


def test_dynamodb_cannot_be_reached(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.CUT_BEFORE, "dynamodb", caller="consume")
        with story.broken(fault):
            met(fault, 12)


# --- EventBridge


def test_eventbridge_takes_half_of_what_it_is_told(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.PARTLY, "events", "PutEvents", "consume", share=0.7, seed=story.seed)
        with story.broken(fault):
            met(fault, 6)


def test_eventbridge_hears_and_its_answers_are_lost(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.CUT_AFTER, "events", "PutEvents", "consume", share=0.6, seed=story.seed)
        with story.broken(fault):
            met(fault, 6)


# --- functions killed in mid-invocation


def test_ingest_is_killed_before_s3(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.KILL_BEFORE, "s3", "PutObject", "ingest", times=4)
        with story.broken(fault):
            met(fault, 4)


@short
def test_ingest_is_killed_between_s3_and_kinesis(story: Story) -> None:
    with story.under_load():
        stored = Rule(Fault.KILL_AFTER, "s3", "PutObject", "ingest", times=2)
        publishing = Rule(Fault.KILL_BEFORE, "kinesis", "PutRecords", "ingest", times=3)
        with story.broken(stored, publishing):
            met(stored, 2)
            met(publishing, 3)


def test_ingest_is_killed_after_kinesis(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.KILL_AFTER, "kinesis", "PutRecords", "ingest", times=4)
        with story.broken(fault):
            met(fault, 4)


def test_redrive_is_killed_after_it_has_published(story: Story) -> None:
    with story.under_load():
        refused = Rule(Fault.THROTTLED, "kinesis", caller="ingest")
        killed = Rule(Fault.KILL_AFTER, "kinesis", "PutRecords", "redrive", times=2)
        with story.broken(refused, killed):
            met(killed, 2)


def test_the_consumer_is_killed_between_any_two_writes(story: Story) -> None:
    with story.under_load():
        heads = Rule(Fault.KILL_AFTER, "dynamodb", "PutItem", "consume", times=2)
        events = Rule(Fault.KILL_BEFORE, "dynamodb", "BatchWriteItem", "consume", times=2)
        told = Rule(Fault.KILL_AFTER, "events", "PutEvents", "consume", times=2)
        with story.broken(heads, events, told):
            for fault in (heads, events, told):
                met(fault, 2)


def test_a_kcl_worker_beside_the_function_is_killed(story: Story, tmp_path: Path) -> None:
    """It begins at the stream's oldest record, so that everything so far comes again too."""
    yard = story.yard
    environment = environment_for(yard.outputs, "local", yard.stack.settings.environment)
    environment |= {
        "KCL_APPLICATION_NAME": f"faults-{uuid4().hex[:8]}",
        "KCL_STATE_FOLDER": str(tmp_path / "s"),
    }
    worker = Worker(tmp_path / "worker", environment)
    try:
        wait_for(lambda: worker.consumed() > 0, 150, "the KCL worker has consumed nothing")
        with story.under_load():
            before = worker.consumed()
            wait_for(lambda: worker.consumed() > before, 60, "the KCL worker has consumed none of it")
            worker.kill()
            story.mended()
    finally:
        if worker.process.poll() is None:
            worker.kill()


# --- phones, networks, AWS as a whole


def test_phones_lose_their_connection_before_they_hear_the_answer(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.CUT_AFTER, "api", share=0.5, seed=story.seed)
        half = Rule(Fault.HALF_ANSWER, "api", share=0.3, seed=story.seed)
        with story.broken(fault, half):
            met(fault, 15)
            met(half, 4)


def test_phones_are_throttled_by_the_gateway(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.THROTTLED, "api", share=0.6, seed=story.seed)
        with story.broken(fault):
            met(fault, 20)


def test_aws_is_cut_off_and_comes_back(story: Story) -> None:
    """Connections are refused, to phones, functions and Snowflake alike."""
    with story.under_load() as phones:
        story.yard.proxy.stop_listening()
        tried = phones.tried
        try:
            wait_for(lambda: phones.tried >= tried + 8, 60, "no phone has tried again")
        finally:
            story.yard.proxy.listen()
        story.mended()


def test_aws_stands_still_for_six_seconds(story: Story) -> None:
    """LocalStack is stopped, the functions' processes run on: everything is there and nothing answers."""
    with story.under_load():
        with story.yard.localstack_stopped():
            time.sleep(
                6
            )  # the length of the pause is what is tested: longer than the functions wait for an answer
        story.mended()


def test_everything_fails_now_and_then(story: Story) -> None:
    faults = [
        Fault.REFUSED,
        Fault.THROTTLED,
        Fault.CUT_BEFORE,
        Fault.CUT_AFTER,
        Fault.HALF_ANSWER,
        Fault.SLOW,
    ]
    with story.under_load():
        rules = [
            Rule(fault, share=0.04, seed=story.seed * 10 + n, seconds=0.5) for n, fault in enumerate(faults)
        ]
        with story.broken(*rules):
            for rule in rules:
                met(rule, 6)


# --- the warehouse


@short
def test_snowflake_is_killed_while_it_loads(story: Story) -> None:
    """At once after it has read some objects: in the middle of its transaction, or just before or after it."""
    chance = random.Random(story.seed)
    with story.under_load():
        for _ in range(3):
            reading = Rule(Fault.SLOW, "s3", "GetObject", "snowflake", seconds=0)
            with story.broken(reading):
                met(reading, 2)
            time.sleep(chance.uniform(0, 0.05))  # the moment is what is tested
            story.yard.kill_snowflake()
            story.yard.restart_snowflake()
        story.mended()


def test_snowflake_is_killed_before_it_can_delete_its_messages(story: Story) -> None:
    with story.under_load():
        for _ in range(2):
            fault = Rule(Fault.KILL_BEFORE, "sqs", "DeleteMessage*", "snowflake", times=1)
            with story.broken(fault):
                met(fault, 1)
            story.yard.restart_snowflake()
        story.mended()


def test_snowflake_reads_badly_and_its_messages_come_again(story: Story) -> None:
    with story.under_load():
        reads = Rule(Fault.REFUSED, "s3", "GetObject", "snowflake", share=0.4, seed=story.seed)
        cut = Rule(Fault.HALF_ANSWER, "s3", "GetObject", "snowflake", share=0.3, seed=story.seed)
        deletes = Rule(Fault.CUT_AFTER, "sqs", "DeleteMessage*", "snowflake", share=0.5, seed=story.seed)
        receives = Rule(Fault.CUT_AFTER, "sqs", "ReceiveMessage", "snowflake", share=0.2, seed=story.seed)
        with story.broken(reads, cut, deletes, receives):
            met(reads, 10)
            met(cut, 5)
            met(deletes, 3)


def test_snowflakes_disk_is_full(story: Story) -> None:
    """A limit on the size of files stands in for the disk; the log cannot be written either."""
    with story.under_load() as phones:
        with story.yard.snowflakes_disk_full():
            settled = phones.settled
            wait_for(
                lambda: phones.settled >= min(phones.sent, settled + 30), 60, "phones wait for Snowflake"
            )
        if not story.yard.snowflake_runs:
            story.yard.restart_snowflake()
        story.mended()


# --- clocks


def test_phones_whose_clocks_are_hours_ahead_and_months_behind(story: Story) -> None:
    """The consumer leaves out what is older than 80 days; the warehouse has it."""

    def skewed() -> Sequence[Post]:
        now = datetime.now(UTC)
        return [
            post
            for n, begins_at in enumerate((now + timedelta(hours=12), now - timedelta(days=100)))
            for post in story.morning(begins_at=begins_at, trucks=3, first_truck=3 * n)
        ]

    with story.under_load(skewed):
        fault = Rule(Fault.THROTTLED, "*", share=0.1, seed=story.seed)
        with story.broken(fault):
            met(fault, 10)


# --- after all of it


@short
def test_z_staging_and_marts_hold_all_of_it_once(story: Story) -> None:
    """What the scenarios before have sent, whatever was broken meanwhile."""
    story.check_marts()
