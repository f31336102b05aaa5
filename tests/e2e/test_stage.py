"""Test the redrive queue, replay, reconcile, the warehouse, the gateway and an alarm. `milkrun verify` runs these
tests and all others that are marked `stage`.

Tests of behaviour that only AWS has are skipped on the local stack.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.pipeline import FARM, Pipeline, crossing, event, eventually, round_trip

pytestmark = pytest.mark.stage
NOW = datetime.now(UTC).replace(microsecond=0)
MORNING = NOW - timedelta(hours=6)
MOST_REQUESTS = 3_000


@contextmanager
def paused_redrive(pipeline: Pipeline) -> Iterator[None]:
    """Disable the redrive function's event source mapping inside the `with` block."""
    functions, name = pipeline.aws("lambda"), f"milkrun-{pipeline.stage}-redrive"
    [mapping] = functions.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]

    def switch(state: str) -> None:
        functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=state == "Enabled")
        eventually(
            lambda: functions.get_event_source_mapping(UUID=mapping["UUID"])["State"] == state, within=60
        )

    switch("Disabled")
    try:
        yield
    finally:
        switch("Enabled")


def test_claim_checks_wait_while_the_redrive_function_is_paused(pipeline: Pipeline, device: str) -> None:
    stored = pipeline.post(crossing(device, "enter", NOW)).body["object_key"]
    assert eventually(lambda: len(pipeline.published(device)) == 1)
    claim = {"bucket": pipeline.outputs.bucket, "key": stored, "lines": [1]}
    sqs, queue = pipeline.aws("sqs"), pipeline.outputs.redrive_queue_url
    with paused_redrive(pipeline):
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(claim))
        names = ["ApproximateNumberOfMessages"]
        waiting = eventually(
            lambda: int(
                sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"][names[0]]
            )
        )
        assert waiting >= 1
        assert len(pipeline.published(device)) == 1
    assert eventually(lambda: len(pipeline.published(device)) == 2)
    assert eventually(lambda: len(pipeline.visits_of(device)) == 1)


def test_replay_labels_the_replayed_events_and_changes_no_visit(pipeline: Pipeline, device: str) -> None:
    assert pipeline.post(*round_trip(device, [FARM], MORNING)).status == 202
    before = eventually(lambda: [v for v in pipeline.visits_of(device) if v.exited_at])
    done = pipeline.ops("replay", "--from", "30 minutes ago", "--device", device, *_stage(pipeline), "--json")
    assert done.result["sent"] == 2
    labelled = eventually(
        lambda: len(found := [e for e in pipeline.published(device) if "milkrun_replay" in e]) == 2 and found
    )
    assert {each["milkrun_replay"] for each in labelled} == {done.result["label"]}
    # The consumer processes this event after the replayed events, so its visit shows that they have been processed.
    assert pipeline.post(crossing(device, "enter", NOW)).status == 202
    after = eventually(lambda: len(found := pipeline.visits_of(device)) == 2 and found)
    assert after[:1] == before


def test_reconcile_finds_no_difference_for_posted_events(pipeline: Pipeline, device: str) -> None:
    key = pipeline.post(event(device), crossing(device, "enter", NOW)).body["object_key"]
    arguments = ("reconcile", "--from", "20 minutes ago", "--settle", "0", *_stage(pipeline), "--json")

    def differences() -> list[str]:
        return [found["key"] for found in pipeline.ops(*arguments).result["differences"]]

    # On a deployed stage, log lines and load history arrive some minutes late.
    assert eventually(lambda: key not in differences(), every=1)


def test_pipes_are_running_and_the_warehouse_matches_the_ddl(pipeline: Pipeline) -> None:
    status = pipeline.ops("warehouse", "status", "--json")
    assert [row["state"] for row in status.result] == ["RUNNING", "RUNNING"]
    differences = pipeline.ops("warehouse", "diff", "--json")
    if not pipeline.is_local and differences.output.startswith(("role not granted", "missing privilege")):
        pytest.skip("warehouse diff needs the role ACCOUNTADMIN")
    assert differences.result == [], differences.output


@pytest.mark.slow
def test_dbt_build_succeeds_while_events_arrive(pipeline: Pipeline, device: str) -> None:
    done = threading.Event()

    def keep_posting() -> int:
        sent = 0
        while not done.wait(0.5):
            sent += pipeline.post(event(device), crossing(device, "dwell", NOW)).status == 202
        return sent

    assert pipeline.post(*round_trip(device, [FARM], MORNING)).status == 202
    eventually(lambda: len(pipeline.published(device)) >= 2)
    with ThreadPoolExecutor(1) as beside:
        posting = beside.submit(keep_posting)
        try:
            eventually(lambda: pipeline.rows("SELECT 1 FROM {db}.RAW.EVENTS LIMIT 1"))
            pipeline.build_marts()
        finally:
            done.set()
        assert posting.result() > 0


# --- behaviour that only AWS has


@pytest.fixture
def _deployed(pipeline: Pipeline) -> None:
    if pipeline.is_local:
        pytest.skip(
            "LocalStack does not throttle, has no gateway responses and does not evaluate these alarms"
        )


@pytest.mark.usefixtures("_deployed")
def test_response_of_the_deployed_gateway_to_a_request_without_a_key_is_problem_json(
    pipeline: Pipeline,
) -> None:
    without_key = pipeline.post_body(b"[]", {"content-type": "application/json"}, with_key=False)
    assert without_key.status == 403
    assert without_key.headers["content-type"].startswith("application/problem+json")
    assert without_key.body["status"] == 403


@pytest.mark.usefixtures("_deployed")
def test_requests_above_the_usage_plans_rate_get_429_and_retry_after(pipeline: Pipeline) -> None:
    plans = pipeline.aws("apigateway").get_usage_plans(limit=500)["items"]
    names = [f"milkrun-{pipeline.stage}", f"milkrun-{pipeline.stage}-2"]
    plan = next(each for each in plans if each["name"] in names)
    rate, burst = plan["throttle"]["rateLimit"], plan["throttle"]["burstLimit"]
    body, refused = json.dumps([event("too-fast")]).encode(), []

    def post(_: int) -> None:
        if not refused:
            answer = pipeline.post_body(body, {"content-type": "application/json"})
            if answer.status == 429:
                refused.append(answer)

    began = datetime.now(UTC)
    count = min(MOST_REQUESTS, 3 * burst)
    with ThreadPoolExecutor(64) as clients:
        list(clients.map(post, range(count)))
    seconds = (datetime.now(UTC) - began).total_seconds()
    if not refused and count <= burst + rate * seconds:
        pytest.skip(
            f"{count / seconds:.0f} requests per second from this machine do not exceed the plan's rate and burst"
        )
    assert refused[0].headers["content-type"].startswith("application/problem+json")
    assert int(refused[0].headers["retry-after"]) > 0


@pytest.mark.usefixtures("_deployed")
def test_quarantined_record_triggers_its_alarm(pipeline: Pipeline, device: str) -> None:
    record = {"Data": b"not json", "PartitionKey": device}
    pipeline.aws("kinesis").put_records(StreamName=pipeline.outputs.stream, Records=[record])
    name = f"milkrun-{pipeline.stage}-set-aside"

    def state() -> str:
        [alarm] = pipeline.aws("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
        return str(alarm["StateValue"])

    assert eventually(lambda: state() == "ALARM", within=900, every=10)


def _stage(pipeline: Pipeline) -> tuple[str, ...]:
    return () if pipeline.is_local else ("--stage", pipeline.stage)
