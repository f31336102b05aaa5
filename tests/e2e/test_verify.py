"""`milkrun verify` on the running stack: the tests that it is given pass, and it leaves nothing of them behind.

The selection has a test for each store: objects, rejects, stream, quarantine and visits. `make verify` runs all of
them; here the others run once, as tests of this folder.
"""

import re
from collections.abc import Iterator

import pytest

from contract.objects import lines_of
from tests.e2e.vocabulary import Pipeline

SELECTION = "adds_no_object or every_form or names_its_code or stands_in_the_table or set_aside_and_delays"
VERIFIED = ("If-None-Match", "binaryMediaTypes", "The endpoints of partition")


@pytest.mark.timeout(300)
def test_a_stage_is_verified_and_nothing_of_the_run_is_left(pipeline: Pipeline) -> None:
    if not pipeline.is_local:
        pytest.skip("would run itself")
    ran = pipeline.ops("verify", "--tests", SELECTION, "--no-marts", "--json")
    report = ran.result
    assert [each for each in report["tests"] if each["outcome"] != "passed"] == []
    assert ran.exit_code == 0
    assert len({each["test"] for each in report["tests"]}) == 6
    before, _, _ = ran.output.partition("passed")
    assert re.search(r"at most \d+ requests, \d+ events, \d+ objects", before)
    assert "costs nothing" in before
    for claim in VERIFIED:
        assert any(claim in each for each in report["assumptions"]), claim
    assert not report["verified"], "stand-ins verify nothing"
    assert report["removed"]["objects"] > 10
    assert report["removed"]["raw_rows"] > 10
    assert report["removed"]["visit_items"] > 0
    assert report["removed"]["left_in_s3"] == []
    label = report["label"]
    assert list(_objects_of(pipeline, label)) == []
    items = pipeline.aws("dynamodb").scan(TableName=pipeline.outputs.visits_table)["Items"]
    assert [item["pk"] for item in items if label in str(item["pk"])] == []
    like = f"%{label}%"
    assert (
        pipeline.rows("SELECT 1 AS x FROM {db}.RAW.EVENTS WHERE payload:user.deviceId::VARCHAR LIKE %s", like)
        == []
    )


def _objects_of(pipeline: Pipeline, label: str) -> Iterator[str]:
    s3, bucket = pipeline.aws("s3"), pipeline.outputs.bucket
    for prefix in ("events/", "rejected/", "set-aside/"):
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Versions", ()):
                found = s3.get_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])
                if found["Metadata"].get("app-version") == label or all(
                    label.encode() in line for line in lines_of(found["Body"].read())
                ):
                    yield entry["Key"]
