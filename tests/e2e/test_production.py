"""The commands of whoever runs a stage, on a running stack: first broken or filled, then asked."""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from ops import redrive
from tests.e2e.vocabulary import Pipeline, crossing, event, eventually


def test_the_smoke_test_follows_one_event_to_the_warehouse(pipeline: Pipeline) -> None:
    code, steps, _ = pipeline.ops("smoke", "--json")
    assert code == 0
    assert [(step["step"], step["seen"]) for step in steps] == [
        ("accepted", True),
        ("archived", True),
        ("consumed", True),
        ("loaded", True),
    ]


def test_a_dead_letter_is_named_sent_again_and_published(pipeline: Pipeline, device: str) -> None:
    if pipeline.outputs.aws_endpoint_url is None:
        pytest.skip("would meet a stage's own dead letters")
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
    # Once by the post, once by the claim check.
    eventually(lambda: len(pipeline.published(device)) == 2)
    eventually(lambda: redrive.waiting(sqs, pipeline.outputs.redrive_queue_url) == 0)


def test_a_person_is_forgotten_everywhere_and_the_others_of_the_request_stay(
    pipeline: Pipeline, device: str
) -> None:
    if pipeline.outputs.aws_endpoint_url is None:
        pytest.skip("looks through a whole archive")
    ann = f"ann-{uuid4().hex[:8]}"
    entered_at = datetime.now(UTC) - timedelta(hours=1)
    theirs = crossing(device, "enter", entered_at, user={"userId": ann, "deviceId": device})
    others = event(f"{device}-other")
    old = pipeline.post(theirs, others).body["object_key"]
    eventually(lambda: pipeline.raw_rows(theirs["_id"]) and pipeline.visits_of(device))

    code, report, _ = pipeline.ops("forget", "--user", ann, "--yes", "--json")
    assert code == 0
    assert (report["lines"], report["raw_rows_deleted"], report["objects_deleted"]) == (1, 2, 1)
    assert report["items_deleted"] > 0

    assert pipeline.raw_rows(theirs["_id"]) == []
    [row] = pipeline.raw_rows(others["_id"])
    assert row["file_name"] != old
    assert [each["_id"] for each in pipeline.archived(row["file_name"])] == [others["_id"]]
    assert pipeline.visits_of(device) == []
    versions = pipeline.aws("s3").list_object_versions(Bucket=pipeline.outputs.bucket, Prefix=old)
    assert not versions.get("Versions")
    assert not versions.get("DeleteMarkers")


def test_top_counts_what_was_posted(pipeline: Pipeline, device: str) -> None:
    pipeline.post(event(device), event(device))

    def counted() -> bool:
        code, panels, _ = pipeline.ops("top", "--minutes", "30", "--json")
        assert code == 0
        assert panels["redrive"].keys() == {"waiting", "sent again", "dead letters"}
        assert panels["snowpipe"]["EVENTS_PIPE"].startswith("RUNNING")
        return bool(panels["events"]["accepted"] >= 2 and panels["requests"]["answered 202"] >= 1)

    eventually(counted, every=2)


def test_the_deployed_api_logs_each_access_as_json_without_naming_anybody(pipeline: Pipeline) -> None:
    """osls sets the access log after the deployment, so no template shows it."""
    api = pipeline.aws("apigateway")
    [found] = [each for each in api.get_rest_apis()["items"] if each["name"].startswith("milkrun-")]
    [stage] = api.get_stages(restApiId=found["id"])["item"]
    log = json.loads(stage["accessLogSettings"]["format"].replace("$context", "context"))
    assert log["status"] == "context.status"
    assert not any("identity" in value for value in log.values())
