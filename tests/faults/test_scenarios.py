"""Make each part fail under load, and test that every promise holds afterwards. docs/reliability.md contains
the results.

In each scenario the part fails while phones send events, and the scenario ends when all events have arrived.
`make faults-short` runs only the scenarios that are marked `short`.
"""

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.test_kcl import Worker
from tests.faults.fault_proxy import Fault, Rule
from tests.faults.faulty_stack import wait_for
from tests.faults.harness import Scenario, rejected, wait_until_applied
from tools.fleet.phones import Post
from tools.stack.start_kcl_worker import environment_for

short = pytest.mark.short

# --- S3


@short
def test_promises_hold_if_s3_returns_an_error_for_every_put(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.REFUSED, "s3", "PutObject", "ingest")
        with scenario.broken(fault):
            wait_until_applied(fault, 12)


def test_promises_hold_if_s3_responses_are_lost_after_objects_are_stored(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.CUT_AFTER, "s3", "PutObject", "ingest", share=0.7, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 25)


def test_promises_hold_if_s3_does_not_respond_and_keeps_connections_open(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.SILENT, "s3", "PutObject", "ingest", share=0.5, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 12)


def test_promises_hold_if_s3_throttles_half_of_all_puts(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.THROTTLED, "s3", "PutObject", share=0.5, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 20)


def test_promises_hold_if_phones_fail_for_good_while_s3_returns_errors(scenario: Scenario) -> None:
    """A lost phone repeats no request. Its events that were not archived must not be published."""
    with scenario.under_load(breaking=True):
        fault = Rule(Fault.REFUSED, "s3", "PutObject", "ingest")
        with scenario.broken(fault):
            wait_until_applied(fault, 12)


# --- Kinesis and the redrive queue


@short
def test_promises_hold_if_kinesis_throttles_every_call_and_the_redrive_queue_fills(
    scenario: Scenario,
) -> None:
    with scenario.under_load():
        fault = Rule(Fault.THROTTLED, "kinesis")
        with scenario.broken(fault):
            wait_until_applied(fault, 20)


def test_promises_hold_if_kinesis_accepts_only_every_second_record(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.PARTLY, "kinesis", "PutRecords")
        with scenario.broken(fault):
            wait_until_applied(fault, 20)


def test_promises_hold_if_kinesis_responses_are_lost_after_records_are_accepted(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.CUT_AFTER, "kinesis", "PutRecords", share=0.6, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 20)


def test_promises_hold_if_kinesis_responses_are_invalid_or_truncated(scenario: Scenario) -> None:
    with scenario.under_load():
        nonsense = Rule(Fault.WRONG_BYTES, "kinesis", "PutRecords", share=0.4, seed=scenario.seed)
        half = Rule(Fault.HALF_ANSWER, "kinesis", "PutRecords", share=0.5, seed=scenario.seed)
        with scenario.broken(nonsense, half):
            wait_until_applied(nonsense, 8)
            wait_until_applied(half, 8)


def test_promises_hold_if_kinesis_and_the_redrive_queue_fail_together(scenario: Scenario) -> None:
    with scenario.under_load():
        stream, queue = Rule(Fault.CUT_BEFORE, "kinesis"), Rule(Fault.REFUSED, "sqs", "SendMessage")
        with scenario.broken(stream, queue):
            wait_until_applied(queue, 6)


def test_promises_hold_if_redrive_reaches_neither_kinesis_nor_the_archive(scenario: Scenario) -> None:
    with scenario.under_load():
        first = Rule(Fault.REFUSED, "kinesis", caller="ingest")
        then = Rule(Fault.REFUSED, "s3", "GetObject", "redrive", times=6)
        at_last = Rule(Fault.THROTTLED, "kinesis", caller="redrive", times=6)
        with scenario.broken(first, then, at_last):
            wait_until_applied(first, 15)
            wait_until_applied(then, 4)


# --- DynamoDB


@short
def test_promises_hold_if_dynamodb_responses_are_lost_after_writes(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.CUT_AFTER, "dynamodb", caller="consume", share=0.3, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 5)  # on a fast machine there are few calls, because batches are large


def test_promises_hold_if_dynamodb_throttles_half_of_all_calls(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.THROTTLED, "dynamodb", caller="consume", share=0.5, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 10)


def test_promises_hold_if_dynamodb_processes_only_half_of_most_batches(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.PARTLY, "dynamodb", "BatchGetItem", "consume", share=0.6, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 4)


def test_promises_hold_if_dynamodb_is_unreachable(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.CUT_BEFORE, "dynamodb", caller="consume")
        with scenario.broken(fault):
            wait_until_applied(fault, 12)


# --- EventBridge


def test_promises_hold_if_eventbridge_accepts_only_some_of_the_notifications(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.PARTLY, "events", "PutEvents", "consume", share=0.7, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 6)


def test_promises_hold_if_eventbridge_responses_are_lost_after_notifications_are_accepted(
    scenario: Scenario,
) -> None:
    with scenario.under_load():
        fault = Rule(Fault.CUT_AFTER, "events", "PutEvents", "consume", share=0.6, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 6)


# --- functions killed during an invocation


def test_promises_hold_if_ingest_is_killed_before_it_writes_to_s3(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.KILL_BEFORE, "s3", "PutObject", "ingest", times=4)
        with scenario.broken(fault):
            wait_until_applied(fault, 4)


@short
def test_promises_hold_if_ingest_is_killed_between_s3_and_kinesis(scenario: Scenario) -> None:
    with scenario.under_load():
        stored = Rule(Fault.KILL_AFTER, "s3", "PutObject", "ingest", times=2)
        publishing = Rule(Fault.KILL_BEFORE, "kinesis", "PutRecords", "ingest", times=3)
        with scenario.broken(stored, publishing):
            wait_until_applied(stored, 2)
            wait_until_applied(publishing, 3)


def test_promises_hold_if_ingest_is_killed_after_publishing_to_kinesis(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.KILL_AFTER, "kinesis", "PutRecords", "ingest", times=4)
        with scenario.broken(fault):
            wait_until_applied(fault, 4)


def test_promises_hold_if_redrive_is_killed_after_publishing_to_kinesis(scenario: Scenario) -> None:
    with scenario.under_load():
        refused = Rule(Fault.THROTTLED, "kinesis", caller="ingest")
        killed = Rule(Fault.KILL_AFTER, "kinesis", "PutRecords", "redrive", times=2)
        with scenario.broken(refused, killed):
            wait_until_applied(killed, 2)


def test_promises_hold_if_the_consumer_is_killed_before_and_after_its_writes(scenario: Scenario) -> None:
    with scenario.under_load():
        unwritten = Rule(Fault.KILL_BEFORE, "dynamodb", "PutItem", "consume", times=2)
        unpublished = Rule(Fault.KILL_AFTER, "dynamodb", "PutItem", "consume", times=2)
        published = Rule(Fault.KILL_AFTER, "events", "PutEvents", "consume", times=2)
        for fault in (unwritten, unpublished, published):
            with scenario.broken(fault):
                wait_until_applied(fault, 2)


def test_promises_hold_if_a_kcl_worker_that_also_reads_the_stream_is_killed(
    scenario: Scenario, tmp_path: Path
) -> None:
    """The KCL worker starts at the stream's oldest record, so it also processes earlier scenarios' records again."""
    faulty_stack = scenario.faulty_stack
    environment = environment_for(faulty_stack.outputs, "local", faulty_stack.stack.settings.environment)
    environment |= {
        "KCL_APPLICATION_NAME": f"faults-{uuid4().hex[:8]}",
        "KCL_STATE_FOLDER": str(tmp_path / "s"),
    }
    worker = Worker(tmp_path / "worker", environment)
    try:
        wait_for(lambda: worker.consumed() > 0, 150, "the KCL worker has consumed no record")
        with scenario.under_load():
            before = worker.consumed()
            wait_for(lambda: worker.consumed() > before, 60, "the KCL worker has consumed no new record")
            worker.kill()
            scenario.repaired()
    finally:
        if worker.process.poll() is None:
            worker.kill()


# --- phones, networks, all of AWS


def test_promises_hold_if_phones_lose_the_connection_before_the_response(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.CUT_AFTER, "api", share=0.5, seed=scenario.seed)
        half = Rule(Fault.HALF_ANSWER, "api", share=0.3, seed=scenario.seed)
        with scenario.broken(fault, half):
            wait_until_applied(fault, 15)
            wait_until_applied(half, 4)


def test_promises_hold_if_the_gateway_throttles_phones(scenario: Scenario) -> None:
    with scenario.under_load():
        fault = Rule(Fault.THROTTLED, "api", share=0.6, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 20)


def test_promises_hold_if_aws_is_temporarily_unreachable(scenario: Scenario) -> None:
    """Connections are refused for phones, functions and Snowflake."""
    with scenario.under_load() as phones:
        scenario.faulty_stack.proxy.stop_listening()
        tried = phones.tried
        try:
            wait_for(lambda: phones.tried >= tried + 8, 60, "no phone has tried again")
        finally:
            scenario.faulty_stack.proxy.listen()
        scenario.repaired()


def test_promises_hold_if_aws_hangs_for_six_seconds(scenario: Scenario) -> None:
    """LocalStack is paused while the functions' processes continue, so that no call gets a response."""
    with scenario.under_load():
        with scenario.faulty_stack.localstack_stopped():
            time.sleep(6)  # must exceed the functions' timeout for a call
        scenario.repaired()


def test_promises_hold_if_some_calls_to_every_service_fail(scenario: Scenario) -> None:
    faults = [
        Fault.REFUSED,
        Fault.THROTTLED,
        Fault.CUT_BEFORE,
        Fault.CUT_AFTER,
        Fault.HALF_ANSWER,
        Fault.SLOW,
    ]
    with scenario.under_load():
        rules = [
            Rule(fault, share=0.04, seed=scenario.seed * 10 + n, seconds=0.5)
            for n, fault in enumerate(faults)
        ]
        with scenario.broken(*rules):
            for rule in rules:
                wait_until_applied(rule, 6)


# --- the warehouse


@short
def test_promises_hold_if_snowflake_is_killed_during_a_load(scenario: Scenario) -> None:
    """Kill Snowflake at a random moment within 50 ms of reading some objects, that is, before, during or after
    the transaction that loads them.
    """
    chance = random.Random(scenario.seed)
    with scenario.under_load():
        for _ in range(3):
            reading = Rule(Fault.SLOW, "s3", "GetObject", "snowflake", seconds=0)
            with scenario.broken(reading):
                wait_until_applied(reading, 2)
            time.sleep(chance.uniform(0, 0.05))  # Snowflake is killed at a random moment
            scenario.faulty_stack.kill_snowflake()
            scenario.faulty_stack.restart_snowflake()
        scenario.repaired()


def test_promises_hold_if_snowflake_is_killed_before_it_deletes_its_messages(scenario: Scenario) -> None:
    with scenario.under_load():
        for _ in range(2):
            fault = Rule(Fault.KILL_BEFORE, "sqs", "DeleteMessage*", "snowflake", times=1)
            with scenario.broken(fault):
                wait_until_applied(fault, 1)
            scenario.faulty_stack.restart_snowflake()
        scenario.repaired()


def test_promises_hold_if_snowflakes_reads_fail_and_messages_are_redelivered(scenario: Scenario) -> None:
    with scenario.under_load():
        reads = Rule(Fault.REFUSED, "s3", "GetObject", "snowflake", share=0.4, seed=scenario.seed)
        cut = Rule(Fault.HALF_ANSWER, "s3", "GetObject", "snowflake", share=0.3, seed=scenario.seed)
        deletes = Rule(Fault.CUT_AFTER, "sqs", "DeleteMessage*", "snowflake", share=0.5, seed=scenario.seed)
        receives = Rule(Fault.CUT_AFTER, "sqs", "ReceiveMessage", "snowflake", share=0.2, seed=scenario.seed)
        with scenario.broken(reads, cut, deletes, receives):
            wait_until_applied(reads, 10)
            wait_until_applied(cut, 5)
            wait_until_applied(deletes, 3)


def test_promises_hold_if_snowflakes_disk_is_full(scenario: Scenario) -> None:
    """A limit on the size of Snowflake's files simulates a full disk; Snowflake cannot write its log either."""
    with scenario.under_load() as phones:
        with scenario.faulty_stack.snowflakes_disk_full():
            settled = phones.settled
            wait_for(
                lambda: phones.settled >= min(phones.sent, settled + 30),
                60,
                "Snowflake still blocked the phones",
            )
        if not scenario.faulty_stack.snowflake_runs:
            scenario.faulty_stack.restart_snowflake()
        scenario.repaired()


# --- clocks


def test_promises_hold_if_phone_clocks_are_hours_ahead_or_months_behind(scenario: Scenario) -> None:
    """An event whose time is more than an hour ahead is rejected. The consumer ignores events older than 80 days."""

    def skewed() -> Sequence[Post]:
        now = datetime.now(UTC)
        lasts = max(post.sent_at for post in scenario.morning(begins_at=now)) - now
        ahead = scenario.morning(begins_at=now - lasts + timedelta(minutes=50))
        far_ahead = scenario.morning(begins_at=now + timedelta(hours=12), first_truck=3)
        behind = scenario.morning(begins_at=now - timedelta(days=100), first_truck=6)
        return [*ahead, *rejected(far_ahead, "created_at_in_future"), *behind]

    with scenario.under_load(skewed):
        fault = Rule(Fault.THROTTLED, "*", share=0.1, seed=scenario.seed)
        with scenario.broken(fault):
            wait_until_applied(fault, 10)


# --- after all scenarios


def test_staging_and_marts_contain_every_event_of_all_scenarios_once(scenario: Scenario) -> None:
    """Run dbt once, and check the events of all earlier scenarios."""
    scenario.check_marts()
