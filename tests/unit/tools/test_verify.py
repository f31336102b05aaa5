"""Test that `milkrun verify` tests the given stage, confirms an assumption only if all its tests passed, and removes
its own test data.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from moto import mock_aws

from contract.archive_object import lines_object, metadata
from contract.geofence_event_types import GEOFENCE_KINDS
from ops.object_sets import ObjectSets
from ops.stage_outputs import Outputs
from tools import verify
from tools.verify import Result, passed, remove, run_tests

NOW = datetime.now(UTC)
LABEL = "verify-01234567"
LOCAL = {"SNOWFLAKE_ACCOUNT": "somebody's", "SNOWFLAKE_USER": "u", "PATH": "/bin"}


class Started(Exception):
    """Raised by the fake of subprocess.Popen instead of starting a process."""


@pytest.mark.parametrize(
    ("stage", "given", "expected"),
    [
        ("local", LOCAL, {"SNOWFLAKE_ACCOUNT": None, "SNOWFLAKE_DATABASE": None}),
        ("dev", LOCAL, {"SNOWFLAKE_ACCOUNT": "somebody's", "SNOWFLAKE_DATABASE": "MILKRUN_DEV"}),
        ("dev", LOCAL | {"SNOWFLAKE_DATABASE": "D"}, {"SNOWFLAKE_DATABASE": "D"}),
    ],
    ids=["local", "deployed", "database-named"],
)
def test_verify_uses_the_snowflake_account_of_the_given_stage(
    monkeypatch: pytest.MonkeyPatch, stage: str, given: dict[str, str], expected: dict[str, str | None]
) -> None:
    """An earlier version, run against a local stack, built the marts of a real account if the SNOWFLAKE_* variables
    named that account.
    """

    def started(*_: object, env: Mapping[str, str], **__: object) -> None:
        assert {name: env.get(name) for name in expected} == expected
        raise Started

    monkeypatch.setattr(verify.subprocess, "Popen", started)
    with pytest.raises(Started):
        run_tests(stage, LABEL, "", "", given)


CLAIMS = """| claim | source | relied on by | pinned by | checked on AWS by |
|---|---|---|---|---|
| one | "Page" | `a.py` | `tests/e2e/t.py::a` | `milkrun verify` |
| two | "Page" | `a.py` | `tests/e2e/t.py::b` | `milkrun verify` |
| three | "Page" | `a.py` | `tests/e2e/t.py::a`, `tests/e2e/t.py::b` | `milkrun verify` |
| four | "Page" | `a.py` | `tests/e2e/t.py::c` | `milkrun verify` |
| five | "Page" | `a.py` | `tests/e2e/t.py::b` | a person |
"""


def test_claim_counts_as_verified_only_if_every_case_of_its_tests_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [
        Result("tests/e2e/t.py::a", "passed", ""),
        Result("tests/e2e/t.py::a", "failed", "AssertionError"),
        Result("tests/e2e/t.py::b", "passed", ""),
        Result("tests/e2e/t.py::c", "skipped", ""),
    ]
    assert passed(results) == {"tests/e2e/t.py::b"}
    (tmp_path / "claims.md").write_text(CLAIMS)
    monkeypatch.setattr(verify, "ASSUMPTIONS", tmp_path / "claims.md")
    assert list(verify.assumptions(passed(results))) == ["two"]


class Raw:
    """A fake of RAW.EVENTS and RAW.REJECTED. `loaded_after` maps each file to the number of queries after
    which it is loaded.
    """

    def __init__(self, loaded_after: Mapping[str, int]) -> None:
        self._loaded_after = dict(loaded_after)
        self.queries = 0
        self.deleted: list[object] = []

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, object]]:
        there = [key for key in parameters if self._loaded_after.get(str(key), 10_000) <= self.queries]
        if sql.startswith("DELETE"):
            self.deleted += there
        elif "COUNT(*)" in sql:
            return [{"n": len(there)}]
        else:
            self.queries += 1
        return [{"file_name": key} for key in there]


class Stage:
    bucket, stream, visits_table, database = "archive", "stream", "visits", "MILKRUN"

    def __init__(self, raw: Raw) -> None:
        self._raw = raw

    def aws(self, service: str) -> Any:
        return boto3.client(service, region_name="us-east-1")

    @contextmanager
    def warehouse(self) -> Iterator[Raw]:
        yield self._raw


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(verify, "geofence_kinds", lambda *_: GEOFENCE_KINDS)
    monkeypatch.setattr(verify, "stream_records", lambda *_: [])
    monkeypatch.setattr(verify, "device_stays", lambda *_: [])
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=Stage.bucket)
        yield client


def keep(s3: Any, n: int, app_version: str) -> str:
    made = lines_object("events", [json.dumps({"_id": str(n), "deviceId": "d"}).encode()], NOW)
    s3.put_object(
        Bucket=Stage.bucket, Key=made.key, Body=made.body, Metadata=metadata({"app-version": app_version})
    )
    return made.key


def stage_of(raw: Raw) -> Outputs:
    return cast("Outputs", Stage(raw))


def keys_in(s3: Any, prefix: str) -> set[str]:
    found = s3.list_objects_v2(Bucket=Stage.bucket, Prefix=prefix)
    return {each["Key"] for each in found.get("Contents", ())}


def test_loaded_objects_of_the_verify_run_are_removed_and_other_objects_stay(s3: Any) -> None:
    ours, others = keep(s3, 1, LABEL), keep(s3, 2, "4.2")
    raw = Raw({ours: 2})
    left = remove(stage_of(raw), "dev", LABEL, NOW - timedelta(minutes=1))
    assert left == {"objects": 1, "raw_rows": 1, "visit_items": 0, "left_in_s3": []}
    assert raw.deleted == [ours]
    assert keys_in(s3, "events/") == {others}


def test_object_that_is_not_loaded_yet_is_left_in_s3_and_reported(s3: Any) -> None:
    loaded, late = keep(s3, 1, LABEL), keep(s3, 2, LABEL)
    left = remove(stage_of(Raw({loaded: 0})), "dev", LABEL, NOW - timedelta(minutes=1), timeout_s=0)
    assert (left["objects"], left["left_in_s3"]) == (1, [late])
    assert keys_in(s3, "events/") == {late}


def test_reconcile_does_not_report_objects_removed_by_verify_as_lost(s3: Any) -> None:
    key = keep(s3, 1, LABEL)
    remove(stage_of(Raw({key: 0})), "dev", LABEL, NOW - timedelta(minutes=1))
    [plan] = keys_in(s3, "forget/")
    said = json.loads(s3.get_object(Bucket=Stage.bucket, Key=plan)["Body"].read())
    hour = NOW.replace(minute=0, second=0, microsecond=0)
    with ObjectSets(None, hour, hour + timedelta(hours=1)) as sets:
        sets.logged([(key, NOW)])
        assert [each.kind for each in sets.differences(NOW)] == ["not_archived"]
        sets.rewritten({pair["old"]: pair["new"] for pair in said["objects"]})
        assert list(sets.differences(NOW)) == []
