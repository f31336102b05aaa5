"""Test the DDL, the commands, a pipe and dbt on a real Snowflake account: `pytest -m snowflake
tests/e2e/test_warehouse_account.py`.

The tests need a stage created by `milkrun warehouse bootstrap`, the variables SNOWFLAKE_ACCOUNT,
SNOWFLAKE_USER, SNOWFLAKE_DATABASE and MILKRUN_BUCKET, a password or SNOWFLAKE_PRIVATE_KEY_FILE, and AWS
credentials with permission to write to events/. They add one event to the stage. They have not been run yet,
because no account was available.
"""

import gzip
import json
import os
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from contract.archive_object import lines_object
from local_snowflake.testing import eventually
from snowpipe import archive, settings
from tests.unit.snowpipe.warehouse_stage import CommandResult, command

WANTED = ("SNOWFLAKE_ACCOUNT", "SNOWFLAKE_USER", "SNOWFLAKE_DATABASE", "MILKRUN_BUCKET")
MISSING = [name for name in WANTED if name not in os.environ]

pytestmark = [
    pytest.mark.snowflake,
    pytest.mark.skipif(bool(MISSING), reason=f"no Snowflake account: set {', '.join(MISSING)}"),
    pytest.mark.timeout(900),
]


def done(*arguments: str) -> CommandResult:
    said = command(dict(os.environ), *arguments)
    assert said.code == 0, said
    return said


def test_apply_and_its_dry_run_succeed_on_a_real_account() -> None:
    done("apply")
    done("apply", "--dry-run")


def test_object_is_loaded_automatically_and_staged() -> None:
    known = settings.load(dict(os.environ))
    id_ = f"account-{uuid4().hex}"
    now = datetime.now(UTC)
    event = {"_id": id_, "type": "account.check", "createdAt": now.isoformat(), "deviceId": "account-check"}
    made = lines_object("events", [json.dumps(event).encode()], now)
    assert gzip.decompress(made.body).count(b"\n") == 1
    archive.s3_client(known.aws).put_object(Bucket=known.aws.bucket or "", Key=made.key, Body=made.body)
    raw = f"SELECT COUNT(*) AS N FROM RAW.EVENTS WHERE FILE_NAME = '{made.key}'"
    eventually(lambda: done("query", raw, "--json").rows[0]["n"], lambda rows: rows == 1, seconds=300)
    assert any(row["key"] == made.key for row in done("history", "--since", "1 hour ago", "--json").rows)
    done("dbt", "--quiet", "build")
    staged = f"SELECT COUNT(*) AS N FROM STAGING.STG_EVENTS WHERE EVENT_ID = '{id_}'"
    assert done("query", staged, "--json").rows[0]["n"] == 1


def test_read_only_commands_succeed_on_a_real_account() -> None:
    assert {row["state"] for row in command(dict(os.environ), "status", "--json").rows} == {"RUNNING"}
    assert command(dict(os.environ), "validate", "--json").code in (0, 1)
    assert done("trust-policy").rows["Statement"][0]["Action"] == "sts:AssumeRole"
    assert done("sns-policy").rows["Statement"]
