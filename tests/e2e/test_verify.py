"""Test `milkrun verify` on the running stack: the selected tests pass, and their data is removed.

SELECTION contains at least one test for each store: objects, rejects, stream, quarantine and visits. `make
verify` runs all tests that `milkrun verify` can run; `make e2e` and `make e2e-slow` run the tests in this folder
directly.
"""

import re
from collections.abc import Iterator

import pytest

from ops.read_stores import readable_lines
from tests.e2e.pipeline import Pipeline

SELECTION = (
    "adds_no_object or every_body_form or gets_the_documented_code or become_a_visit"
    " or quarantined_and_do_not_block"
)
VERIFIED = ("If-None-Match", "binaryMediaTypes", "Endpoints are")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_verify_passes_and_removes_its_test_data(pipeline: Pipeline) -> None:
    if not pipeline.is_local:
        pytest.skip("this test checks only the local stage")
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
    assert not report["verified"], "a local stack verifies no assumption"
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
                # Other tests leave damaged objects, which have no readable lines.
                lines = readable_lines(found["Body"].read())
                if found["Metadata"].get("app-version") == label or (
                    lines and all(label.encode() in line for line in lines)
                ):
                    yield entry["Key"]
