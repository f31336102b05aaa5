"""Test that `milkrun warehouse apply` upgrades a warehouse of 2026-11-23 to this version and keeps its data.

As docs/upgrade.md describes, the test compares the warehouse with the DDL, applies the DDL and revokes superfluous
grants. The earlier DDL comes from the repository's history.
"""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_snowflake.testing import Aws, LocalProcess, eventually
from snowpipe import apply, archive, settings
from snowpipe.ddl_files import definitions
from tests.unit.snowpipe.warehouse_stage import Stage

ROOT = Path(__file__).parents[2]
EARLIER = "e556c79"  # the last commit of 2026-11-23

pytestmark = pytest.mark.slow  # applies two versions of the DDL


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Extract the DDL of 2026-11-23 from the repository's history; return its folder."""
    packed = subprocess.run(
        ["git", "archive", EARLIER, "snowpipe/ddl"], cwd=ROOT, capture_output=True, check=False
    )
    if packed.returncode:
        pytest.skip(f"the clone has no commit {EARLIER}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(tmp_path / "earlier", filter="data")
    folder = tmp_path / "earlier" / "snowpipe" / "ddl"
    for view in folder.glob("*_view_*.sql"):
        # COPY_HISTORY refuses a START_TIME more than 14 days ago, and exactly 14 days may be too long by milliseconds.
        view.write_text(view.read_text().replace("DATEADD('day', -14,", "DATEADD('day', -13,"))
    return folder


@pytest.fixture
def stage(aws: Aws, local: LocalProcess, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "stage", local, aws)
    yield stage
    stage.close()


def test_apply_upgrades_an_earlier_warehouse_and_keeps_its_rows(stage: Stage, earlier: Path) -> None:
    known = archive.parameters(settings.load(stage.environment))
    before = known.model_copy(update={"storage_role_arn": f"{known.storage_role_arn}-before"})
    apply.run(stage.warehouse, definitions(before, earlier))
    sent = {"_id": "a", "type": "t", "createdAt": "2026-11-20T10:00:00Z", "user": {"deviceId": "van-1"}}
    kept = stage.put([sent])
    stage.loaded([kept])
    made = {
        row["name"]: row["created_on"] for row in stage.query(f"SHOW PIPES IN SCHEMA {stage.database}.RAW")
    }
    named = {row["what"] for row in stage.run("diff", "--json").rows}
    assert named >= {"object", "grant", "query", "MANAGED ACCESS", "STORAGE_AWS_ROLE_ARN"}
    assert named >= {"STATEMENT_TIMEOUT_IN_SECONDS", "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS"}

    stage.done("apply")
    left = stage.run("diff", "--json").rows
    # The earlier version granted more privileges than needed. The DDL does not revoke them.
    assert {row["ddl"] for row in left} <= {"none"}, left
    for row in left:
        stage.query(row["repair"])
    assert stage.run("diff", "--json").rows == []

    after = stage.put([sent | {"_id": "b"}])
    stage.loaded([kept, after])
    assert stage.count() == 2
    pipes = stage.query(f"SHOW PIPES IN SCHEMA {stage.database}.RAW")
    assert {row["name"]: row["created_on"] for row in pipes} == made, "no pipe was recreated"
    healthy = eventually(lambda: stage.run("status", "--json").rows, bool)
    assert [row["state"] for row in healthy] == ["RUNNING", "RUNNING"]
