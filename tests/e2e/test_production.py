"""Test the operators' commands for a production stage, the access log and the request ids on a running stack."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from ops import redrive
from tests.e2e.pipeline import Pipeline, crossing, event, eventually, written


def test_smoke_test_follows_one_event_to_the_warehouse(pipeline: Pipeline) -> None:
    code, steps, _ = pipeline.ops("smoke", "--json")
    assert code == 0
    assert [(step["step"], step["seen"]) for step in steps] == [
        ("accepted", True),
        ("archived", True),
        ("consumed", True),
        ("loaded", True),
    ]


def test_preflight_finds_no_blocking_problem_on_the_local_stack(
    pipeline: Pipeline,
) -> None:
    if pipeline.outputs.aws_endpoint_url is None:
        pytest.skip("this test checks only the local stage")
    ran = pipeline.ops("preflight", "local", "--json")
    assert ran.exit_code == 0
    levels = {row["check"]: row["level"] for row in ran.result}
    assert {"concurrency", "names", "alarms", "snowflake session"} <= levels.keys()
    assert set(levels.values()) <= {"ok", "warns"}


@pytest.mark.slow
def test_smoke_test_names_the_step_that_fails(pipeline: Pipeline) -> None:
    if pipeline.outputs.aws_endpoint_url is None:
        pytest.skip("this test would pause a pipe of the deployed stage")
    pipe = "{db}.RAW.EVENTS_PIPE"
    pipeline.rows(f"ALTER PIPE {pipe} SET PIPE_EXECUTION_PAUSED = TRUE")
    try:
        code, steps, _ = pipeline.ops("smoke", "--timeout", "8", "--json")
    finally:
        pipeline.rows(f"ALTER PIPE {pipe} SET PIPE_EXECUTION_PAUSED = FALSE")
    assert code == 1
    assert [step["step"] for step in steps if step["seen"]] == ["accepted", "archived", "consumed"]
    assert (steps[-1]["step"], steps[-1]["seen"]) == ("loaded", False)
    assert pipeline.ops("smoke", "--json")[0] == 0


def test_check_key_command_prints_the_grant_of_the_watcher_role_and_the_public_key_in_kms(
    pipeline: Pipeline,
) -> None:
    said = pipeline.ops("check-key").output
    watcher = f"{pipeline.outputs.database}_WATCHER"
    assert watcher in {row["name"] for row in pipeline.rows("SHOW ROLES")}, (
        "`milkrun warehouse apply` creates the role"
    )
    assert f"GRANT ROLE {watcher} TO USER {watcher};" in said
    [key] = re.findall(r"RSA_PUBLIC_KEY = '([^']+)'", said)
    stacks = pipeline.aws("cloudformation").describe_stacks(StackName="milkrun-local")["Stacks"]
    named = {o["OutputKey"]: o["OutputValue"] for o in stacks[0]["Outputs"]}
    kept = pipeline.aws("kms").get_public_key(KeyId=named["CheckKeyId"])["PublicKey"]
    assert base64.b64decode(key) == kept


def test_dead_letter_is_listed_resent_and_published(pipeline: Pipeline, device: str) -> None:
    if pipeline.outputs.aws_endpoint_url is None:
        pytest.skip("a deployed stage may have its own dead letters")
    enter = crossing(device, "enter", datetime.now(UTC) - timedelta(hours=1))
    key = pipeline.post(enter).body["object_key"]
    claim = {"bucket": pipeline.outputs.bucket, "key": key, "lines": [1]}
    sqs, queue = pipeline.aws("sqs"), pipeline.outputs.dead_letter_queue_url
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(claim))

    code, found, _ = pipeline.ops("redrive", "--json")
    assert code == 1
    assert [(row["object_key"], row["lines"]) for row in found["dead_letters"]] == [(key, 1)]

    code, _, _ = pipeline.ops("redrive", "--send", "--json")
    assert code == 0
    assert pipeline.ops("redrive", "--json")[1]["dead_letters"] == []
    # The request and the claim check each publish the event once.
    eventually(lambda: len(pipeline.published(device)) == 2)
    eventually(lambda: redrive.waiting(sqs, pipeline.outputs.redrive_queue_url) == 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_forget_deletes_one_persons_data_and_no_data_of_others(pipeline: Pipeline, device: str) -> None:
    if pipeline.outputs.aws_endpoint_url is None:
        pytest.skip("on a deployed stage, forget would read the whole archive")
    ann, shared = f"ann-{uuid4().hex[:8]}", f"{device}-shared"
    at = datetime.now(UTC) - timedelta(hours=1)
    enter = crossing(device, "enter", at, user={"userId": ann, "deviceId": device})
    contradiction = enter | {"createdAt": written(at + timedelta(minutes=1))}
    without_user = crossing(device, "exit", at + timedelta(minutes=9), user={"deviceId": device})
    theirs = [
        enter,
        without_user,
        event(device, user={"user_id": ann}, deviceId=device),
        crossing(shared, "enter", at, user={"userId": ann, "deviceId": shared}),
    ]
    others = [event(f"{device}-other"), crossing(shared, "enter", at + timedelta(minutes=30))]
    old = pipeline.post(*theirs, *others).body["object_key"]
    pipeline.post(contradiction)
    pipeline.post({"type": "unfinished", "user": {"userId": ann}})  # rejected
    pipeline.post_body(b'{"userId":"%b", oops' % ann.encode(), {"Content-Type": "application/json"})
    eventually(lambda: len(pipeline.raw_rows(enter["_id"])) == 2 and len(pipeline.visits_of(shared)) == 2)
    eventually(
        lambda: pipeline.rows("SELECT 1 FROM {db}.RAW.REJECTED WHERE CONTAINS(TO_JSON(payload), %s)", ann)
    )
    pipeline.build_marts()
    ids = [ann, enter["_id"], without_user["_id"], theirs[3]["_id"]]
    assert tables_with(pipeline, *ids) >= {"STG_EVENTS", "EVENT_CONFLICTS", "GEOFENCE_VISITS"}

    code, report, _ = pipeline.ops("forget", "--user", ann, "--yes", "--json")
    assert code == 0, report
    assert (report["devices"], report["shared_devices"]) == ([device], {shared: 1})
    assert (report["lines"], report["objects_deleted"], report["marts_built"]) == (7, 4, True)

    assert tables_with(pipeline, *ids, f'"{device}"', f"'{device}'") == set()
    assert pipeline.visits_of(device) == pipeline.mart_visits_of(device) == []
    kept = {each["_id"] for each in others}
    assert staged(pipeline, *kept) == kept
    [visit] = pipeline.visits_of(shared)
    assert visit.entered_event_id == others[1]["_id"]
    assert pipeline.mart_visits_of(shared) == [visit]
    [row] = pipeline.raw_rows(others[0]["_id"])
    assert {each["_id"] for each in pipeline.archived(row["file_name"])} == kept
    versions = pipeline.aws("s3").list_object_versions(Bucket=pipeline.outputs.bucket, Prefix=old)
    assert not versions.get("Versions")
    assert not versions.get("DeleteMarkers")
    # Reconcile does not report the forgotten events as lost.
    looked = pipeline.ops("reconcile", "--from", "30 minutes ago", "--settle", "0", "--json").result
    assert [d for d in looked["differences"] if d["key"] in (old, row["file_name"])] == []
    assert {each["store"] for each in report["remaining"]} > {"Kinesis stream", "Snowflake Fail-safe"}


def tables_with(pipeline: Pipeline, *texts: str) -> set[str]:
    """Return the names of the database's tables in which any of these strings occurs."""
    tables = pipeline.rows(
        "SELECT table_schema AS s, table_name AS t FROM {db}.INFORMATION_SCHEMA.TABLES WHERE table_type = 'BASE TABLE'"
    )
    return {
        table["t"]
        for table in tables
        if any(
            text in repr(row)
            for row in pipeline.rows(f"SELECT * FROM {{db}}.{table['s']}.{table['t']}")
            for text in texts
        )
    }


def staged(pipeline: Pipeline, *event_ids: str) -> set[str]:
    marks = ", ".join(["%s"] * len(event_ids))
    rows = pipeline.rows(
        f"SELECT event_id FROM {{db}}.STAGING.STG_EVENTS WHERE event_id IN ({marks})", *event_ids
    )
    return {row["event_id"] for row in rows}


def test_deployed_api_has_a_json_access_log_without_personal_data(pipeline: Pipeline) -> None:
    """Check the deployed API, because osls configures the access log only after it has deployed the template, which
    does not contain the log's settings.
    """
    api = pipeline.aws("apigateway")
    [found] = [each for each in api.get_rest_apis()["items"] if each["name"].startswith("milkrun-")]
    [stage] = api.get_stages(restApiId=found["id"])["item"]
    log = json.loads(stage["accessLogSettings"]["format"].replace("$context", "context"))
    assert log["status"] == "context.status"
    assert not any("identity" in value for value in log.values())
    assert log["request_id"] == "context.extendedRequestId"
    # With dataTrace, whole bodies would be logged if the log level were raised.
    assert {settings["dataTraceEnabled"] for settings in stage["methodSettings"].values()} == {False}


@pytest.mark.stage
def test_client_cannot_choose_the_request_id(pipeline: Pipeline, device: str) -> None:
    headers = {"x-amzn-requestid": "chosen-by-client", "x-request-id": "chosen-by-client"}
    answer = pipeline.post(event(device), headers=headers)
    assert answer.status == 202
    assert "chosen" not in answer.body["request_id"]
