"""DDL, commands, pipe and dbt on a real Snowflake account: `pytest -m snowflake tests/e2e/test_warehouse_account.py`.

Wants a stage that `milkrun warehouse bootstrap` has made: SNOWFLAKE_ACCOUNT, SNOWFLAKE_USER, a password or
SNOWFLAKE_PRIVATE_KEY_FILE, SNOWFLAKE_DATABASE, MILKRUN_BUCKET, and AWS credentials that may write to events/.
It adds one event to the stage. Not run by anybody yet: no account was at hand.
"""

import gzip
import json
import os
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from contract.objects import lines_object
from local_snowflake.testing import eventually
from snowpipe import archive, settings
from tests.unit.snowpipe.vocabulary import Said, command

WANTED = ("SNOWFLAKE_ACCOUNT", "SNOWFLAKE_USER", "MILKRUN_BUCKET")
MISSING = [name for name in WANTED if name not in os.environ]

pytestmark = [
    pytest.mark.snowflake,
    pytest.mark.skipif(bool(MISSING), reason=f"no Snowflake account: {', '.join(MISSING)} not set"),
    pytest.mark.timeout(900),
]


def done(*arguments: str) -> Said:
    said = command(dict(os.environ), *arguments)
    assert said.code == 0, said
    return said


def test_apply_again_changes_nothing_and_no_pipe_differs() -> None:
    done("apply")
    done("apply", "--dry-run")


def test_an_object_becomes_a_row_by_itself_and_an_event_in_staging() -> None:
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


def test_the_commands_look_without_changing_anything() -> None:
    assert {row["state"] for row in command(dict(os.environ), "status", "--json").rows} == {"RUNNING"}
    assert command(dict(os.environ), "validate", "--json").code in (0, 1)
    assert done("trust-policy").rows["Statement"][0]["Action"] == "sts:AssumeRole"
    assert done("sns-policy").rows["Statement"]
