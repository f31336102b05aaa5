"""Test the warehouse end to end: DDL, pipes, dbt and commands on a local Snowflake, with moto for S3, SNS and SQS.

No stack is needed: the tests start all services on free loopback ports.
"""

import json
import math
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from consumer.visits import visits_of
from contract.event_rules import check, geofence_event
from contract.events import GeofenceEvent
from contract.geofence_event_types import GEOFENCE_KINDS
from handler.parse_body import parse_body
from handler.validate import validate
from local_snowflake.testing import Aws, LocalProcess, eventually
from snowpipe import loading, pipe_health, pipes
from snowpipe.archive import Archive
from snowpipe.check.pipes import failed_loads_sql
from snowpipe.ddl_files import definitions
from snowpipe.pipes import Kind, Pipe
from snowpipe.recreate import Recreation
from snowpipe.run_dbt import DBT
from snowpipe.warehouse import Row
from tests.e2e.pipeline import Event
from tests.unit.contract.instants import ACCEPTED, REJECTED
from tests.unit.snowpipe.warehouse_stage import Stage, command

MORNING = datetime(2026, 11, 16, 6, tzinfo=UTC)
SQL = Path(__file__).parents[2] / "snowpipe" / "sql"


@pytest.fixture
def stage(aws: Aws, local: LocalProcess, tmp_path: Path) -> Iterator[Stage]:
    """Yield a stage with a new database that contains the DDL's objects but no rows."""
    stage = Stage(tmp_path / "stage", local, aws)
    stage.create_objects()
    yield stage
    stage.close()


def event(id_: str, type_: str = "user.updated_trip", at: datetime = MORNING, **more: object) -> Event:
    created_at = at.isoformat(timespec="microseconds")
    return {"_id": id_, "type": type_, "createdAt": created_at, "user": {"deviceId": "van-1"}} | more


def crossing(id_: str, kind: str, at: datetime, device: str, fence: str = "farm-1", **more: object) -> Event:
    verb = {"enter": "entered", "dwell": "dwelled_in", "exit": "exited"}[kind]
    geofence = {"tag": "farm", "externalId": fence}
    return event(
        id_, f"user.{verb}_geofence", at, geofence=geofence, user={"deviceId": device, "userId": "d"}, **more
    )


# --- DDL and pipes


def test_apply_creates_all_objects_and_a_second_apply_changes_nothing(
    aws: Aws, local: LocalProcess, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "stage", local, aws)
    stage.done("apply")
    key = stage.put([event("a")])
    stage.loaded([key])
    before = {kind: _made(stage, kind) for kind in ("PIPES", "STAGES", "TABLES")}
    again = stage.done("apply", "--json").rows
    assert [row["file"] for row in again] == [definition.path.name for definition in _ddl(stage)]
    assert {kind: _made(stage, kind) for kind in before} == before
    assert stage.count() == 1
    assert [row["healthy"] for row in stage.done("status", "--json").rows] == [True, True]
    stage.close()


def _made(stage: Stage, kind: str) -> dict[str, datetime]:
    rows = stage.query(f"SHOW {kind} IN SCHEMA {stage.database}.RAW")
    assert len(rows) == 2
    return {row["name"]: row["created_on"] for row in rows}


def test_apply_dry_run_creates_nothing(aws: Aws, local: LocalProcess, tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", local, aws)
    assert "would run" in stage.done("apply", "--dry-run", "--json").out
    assert stage.database not in {row["name"] for row in stage.query("SHOW DATABASES")}
    stage.close()


def test_apply_refuses_a_changed_pipe_and_recreate_replaces_it_without_losing_rows(stage: Stage) -> None:
    keys = [stage.put([event(f"before-{n}")]) for n in range(5)]
    stage.loaded(keys)
    # Someone changed the pipe by hand, which discards its load history.
    (made,) = stage.query(f"DESC PIPE {stage.database}.RAW.EVENTS_PIPE")
    changed = made["definition"].replace("SKIP_FILE", "CONTINUE")
    stage.query(
        f"CREATE OR REPLACE PIPE {stage.database}.RAW.EVENTS_PIPE AUTO_INGEST = TRUE "
        f"AWS_SNS_TOPIC = '{stage.topic}' AS {changed}"
    )
    refused = stage.run("apply")
    assert refused.code == 1
    assert "recreate" in refused.err
    assert f"{stage.database}.RAW.EVENTS_PIPE" in refused.err
    assert "REJECTED_PIPE" not in refused.err

    assert stage.done("recreate", "--json").rows[0]["result"] == "made again"
    stage.done("apply")
    after = stage.put([event("after")])
    stage.loaded([*keys, after])
    assert stage.count() == 6


def test_replacing_a_pipe_and_refreshing_it_immediately_loads_every_file_twice(stage: Stage) -> None:
    keys = [stage.put([event(f"{n}")]) for n in range(5)]
    stage.loaded(keys)
    create = next(d for d in _ddl(stage) if d.is_pipe and d.pipe.endswith("EVENTS_PIPE")).statements[0]
    stage.query(create.replace("CREATE PIPE IF NOT EXISTS", "CREATE OR REPLACE PIPE"))
    stage.query(f"ALTER PIPE {stage.database}.RAW.EVENTS_PIPE REFRESH")
    eventually(stage.count, lambda count: count == 10)


class Breaking:
    """A warehouse connection that fails right after the first statement that contains `last`."""

    def __init__(self, stage: Stage, last: str) -> None:
        self.stage, self.last = stage, last

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        rows = self.stage.warehouse.query(sql, parameters)
        if self.last in sql:
            raise ConnectionError("cut off")
        return rows


def test_recreate_interrupted_at_any_step_continues_without_losing_rows(stage: Stage) -> None:
    pipe = Pipe(stage.database, Kind.events)
    definition = next(d for d in _ddl(stage) if d.is_pipe and d.pipe == pipe.name)
    state = stage.folder / "recreate.json"
    archive = Archive(stage.aws.s3, stage.bucket)
    keys = [stage.put([event(f"first-{n}")]) for n in range(3)]
    stage.loaded(keys)

    def recreation(warehouse: object) -> Recreation:
        return Recreation(
            warehouse,
            pipe,
            definition,
            archive,
            state,
            lambda _: None,
            settling=timedelta(seconds=2),
            grace=timedelta(seconds=5),
        )

    # Interrupt after the pause, just before and just after the replacement, and after REFRESH.
    for last in ("PAUSED = TRUE", "DESC PIPE", "CREATE OR REPLACE", "REFRESH"):
        keys.append(stage.put([event(f"while {last}")]))
        with pytest.raises(ConnectionError):
            recreation(Breaking(stage, last)).run()
        keys.append(stage.put([event(f"after {last}")]))
        recreation(stage.warehouse).run()
        assert not state.exists()
    stage.loaded(keys)
    eventually(lambda: pipes.status(stage.warehouse, pipe).pending, lambda pending: pending == 0)
    assert stage.count() == len(keys)


class Busy:
    """A warehouse whose pipe always reports a file in its queue, until the pipe is replaced."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.replaced = stage, False

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        rows = self.stage.warehouse.query(sql, parameters)
        self.replaced |= "CREATE OR REPLACE PIPE" in sql
        if "SYSTEM$PIPE_STATUS" in sql and not self.replaced:
            status = json.loads(rows[0]["status"])
            if status["executionState"] == "RUNNING":
                now = datetime.now(UTC).isoformat()
                status |= {"pendingFileCount": 1, "oldestFileTimestamp": now}
            rows = [{"status": json.dumps(status)}]
        return rows


class Late:
    """A warehouse whose pipe reports an older file in its queue after the first pause, because the file's
    notification was late.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage, self.pauses = stage, 0

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        rows = self.stage.warehouse.query(sql, parameters)
        self.pauses += "PIPE_EXECUTION_PAUSED = TRUE" in sql
        if "SYSTEM$PIPE_STATUS" in sql:
            status = json.loads(rows[0]["status"])
            if status["executionState"] == "PAUSED" and self.pauses == 1:
                early = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
                rows = [
                    {"status": json.dumps(status | {"pendingFileCount": 1, "oldestFileTimestamp": early})}
                ]
        return rows


def test_recreate_loads_a_file_once_if_its_notification_arrives_during_the_pause(stage: Stage) -> None:
    pipe = Pipe(stage.database, Kind.events)
    stage.loaded([stage.put([event("before")])])
    definition = next(d for d in _ddl(stage) if d.is_pipe and d.pipe == pipe.name)
    warehouse = Late(stage)
    Recreation(
        warehouse,
        pipe,
        definition,
        Archive(stage.aws.s3, stage.bucket),
        stage.folder / "recreate.json",
        lambda _: None,
        settling=timedelta(seconds=1),
        grace=timedelta(seconds=5),
    ).run()
    assert warehouse.pauses == 3, "the first pause, the second pause, and the pause of the new pipe"
    assert stage.count() == 1


def test_pipe_that_cannot_load_its_queued_files_is_recreated_without_waiting(stage: Stage) -> None:
    keys = [stage.put([event("before")])]
    stage.loaded(keys)
    stage.query(f"DROP STAGE {stage.database}.RAW.EVENTS_STAGE")
    keys += [stage.put([event(f"meanwhile-{n}")]) for n in range(3)]
    stage.done("apply")
    state = f"SELECT SYSTEM$PIPE_STATUS('{stage.database}.RAW.EVENTS_PIPE')"
    broken = eventually(lambda: json.loads(stage.one(state)), lambda s: s["pendingFileCount"] == 3)
    assert broken["executionState"] == "STOPPED_STAGE_DROPPED"

    assert broken["executionState"] in pipe_health.NEED_RECREATE  # otherwise recreate would skip the pipe
    began = time.monotonic()
    pipe = Pipe(stage.database, Kind.events)
    recreation = Recreation(
        stage.warehouse,
        pipe,
        next(d for d in _ddl(stage) if d.is_pipe and d.pipe == pipe.name),
        Archive(stage.aws.s3, stage.bucket),
        stage.folder / "recreate.json",
        lambda _: None,
        grace=timedelta(seconds=5),
    )
    assert recreation.run() == 3
    assert time.monotonic() - began < 120, "recreate waited for files that the pipe cannot load"
    keys.append(stage.put([event("after")]))
    stage.loaded(keys)
    assert stage.count() == 5


def test_pipe_whose_queue_is_never_empty_is_recreated(stage: Stage) -> None:
    pipe = Pipe(stage.database, Kind.events)
    stage.loaded([stage.put([event("before")])])
    definition = next(d for d in _ddl(stage) if d.is_pipe and d.pipe == pipe.name)
    archive, state = Archive(stage.aws.s3, stage.bucket), stage.folder / "recreate.json"
    recreation = Recreation(
        Busy(stage),
        pipe,
        definition,
        archive,
        state,
        lambda _: None,
        timeout=timedelta(seconds=30),
        settling=timedelta(seconds=10),
        grace=timedelta(seconds=5),
    )
    recreation.run()
    stage.loaded([stage.put([event("after")])])
    assert stage.count() == 2


def _ddl(stage: Stage) -> list[object]:
    from snowpipe import archive, settings

    return definitions(archive.parameters(settings.load(stage.environment)))


# --- failed files, refresh, backfill, reload


def test_failed_file_is_in_the_history_and_validate_names_its_invalid_line(stage: Stage) -> None:
    good = stage.put([event("good")])
    bad = stage.put([json.dumps(event("b1")).encode(), b'{"_id":"b2","type":'])
    stage.loaded([good])
    eventually(lambda: stage.run("history", "--failed", "--json").rows, bool)
    (row,) = stage.run("history", "--failed", "--json").rows
    assert (row["key"], row["status"], row["first_error_line"]) == (bad, "Load failed", 2)
    said = stage.run("validate", "--json")
    assert said.code == 1
    (line,) = said.rows
    assert (line["key"], line["line"], line["excerpt"]) == (bad, 2, '{"_id":"b2","type":')
    assert "Input data was truncated" in line["problem"]
    assert stage.one(f"SELECT FILE_NAME FROM {stage.database}.OPS.LOAD_FAILURES") in bad
    assert stage.one(failed_loads_sql(stage.database)) == "1"


def test_backfill_loads_each_object_without_a_notification_once(stage: Stage) -> None:
    notified = stage.put([event("notified")])
    stage.loaded([notified])
    # Remove the bucket's notifications, so that the pipes learn of no new object.
    stage.aws.s3.put_bucket_notification_configuration(Bucket=stage.bucket, NotificationConfiguration={})
    (Path(stage.folder) / "outputs.json").write_text(json.dumps(stage.outputs | {"topic_arn": stage.topic}))
    missed = [stage.put([event(f"missed-{n}")], received_at=MORNING + timedelta(hours=n)) for n in range(30)]
    done = stage.done("backfill", "--from", MORNING.isoformat(), "--to", "now", "--json").rows
    assert {row["key"] for row in done} == set(missed)
    assert stage.done("backfill", "--from", MORNING.isoformat(), "--json").rows == []
    assert stage.count() == 31


def test_refresh_queues_each_file_without_a_notification_once(stage: Stage, local: LocalProcess) -> None:
    stage.aws.s3.put_bucket_notification_configuration(Bucket=stage.bucket, NotificationConfiguration={})
    (Path(stage.folder) / "outputs.json").write_text(json.dumps(stage.outputs | {"topic_arn": stage.topic}))
    keys = [stage.put([event(f"{n}")]) for n in range(3)]
    said = stage.done("refresh", "--pipe", "events", "--json")
    assert {row["key"]: row["result"] for row in said.rows} == dict.fromkeys(keys, "queued")
    stage.loaded(keys)
    assert stage.done("refresh", "--json").rows == []


def test_reload_replaces_the_rows_of_a_file_unless_the_file_was_deleted(stage: Stage) -> None:
    key = stage.put([event("a"), event("b")])
    stage.loaded([key])
    stage.query(f"DELETE FROM {stage.database}.RAW.EVENTS WHERE FILE_ROW_NUMBER = 2")
    (row,) = stage.done("reload", key, "--json").rows
    assert (row["rows"], stage.rows_of(key)) == (2, 2)
    stage.aws.s3.delete_object(Bucket=stage.bucket, Key=key)
    said = stage.run("reload", f"s3://{stage.bucket}/{key}")
    assert said.code == 2
    assert "does not exist" in said.err
    assert stage.rows_of(key) == 2


@pytest.mark.parametrize("last", ["DELETE", "FORCE"])
def test_interrupted_reload_keeps_the_previous_rows(stage: Stage, last: str) -> None:
    key = stage.put([event("a"), event("b")])
    stage.loaded([key])
    pipe = Pipe(stage.database, Kind.events)
    copy = next(d for d in _ddl(stage) if d.is_pipe and d.pipe == pipe.name).copy_statement
    with pytest.raises(ConnectionError):
        loading.reload(Breaking(stage, last), pipe, Archive(stage.aws.s3, stage.bucket), copy, key)
    assert stage.rows_of(key) == 2


def test_readers_see_the_old_rows_until_a_reload_is_complete(stage: Stage) -> None:
    key = stage.put([event("a"), event("b")])
    stage.loaded([key])
    pipe = Pipe(stage.database, Kind.events)
    copy = next(d for d in _ddl(stage) if d.is_pipe and d.pipe == pipe.name).copy_statement
    seen: list[int] = []

    class Watched:
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            rows = stage.warehouse.query(sql, parameters)
            sql_count = f"SELECT COUNT(*) AS n FROM {stage.database}.RAW.EVENTS"
            seen.append(stage.done("query", sql_count, "--json").rows[0]["n"])
            return rows

    loading.reload(Watched(), pipe, Archive(stage.aws.s3, stage.bucket), copy, key)
    assert seen == [2] * len(seen)
    assert stage.rows_of(key) == 2


def test_history_lists_failed_files_despite_newer_loaded_files(stage: Stage) -> None:
    bad = stage.put([b'{"_id":"b2","type":'])
    eventually(lambda: stage.run("history", "--failed", "--json").rows, bool)
    stage.loaded([stage.put([event(f"{n}")]) for n in range(3)])
    (row,) = stage.done("history", "--failed", "--limit", "1", "--json").rows
    assert row["key"] == bad
    assert len(stage.done("history", "--limit", "2", "--json").rows) == 2


def test_stale_pipe_is_resumed_and_loads_files_with_expired_notifications(
    stage: Stage, local: LocalProcess
) -> None:
    loaded = stage.put([event("before")])
    stage.loaded([loaded])
    stage.done("pause", "--pipe", "events")
    forgotten = stage.put([event("forgotten")])
    eventually(
        lambda: stage.run("status", "--pipe", "events", "--json"), lambda said: said.rows[0]["pending"] == 1
    )
    with local.days_later(14.1):
        assert (
            "stale"
            in stage.run(
                "query", f"ALTER PIPE {stage.database}.RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = FALSE"
            ).err
        )
        said = stage.done("resume", "--pipe", "events", "--json")
        assert said.rows == [
            {"pipe": f"{stage.database}.RAW.EVENTS_PIPE", "state": "RUNNING", "expired_files": 1}
        ]
        stage.loaded([forgotten])
        assert stage.count() == 2
        assert stage.done("recreate", "--all", "--pipe", "events", "--json").rows[0]["result"] == "made again"
    assert stage.count() == 2


def test_files_wait_for_a_paused_pipe_and_are_loaded_after_resume(stage: Stage) -> None:
    stage.done("pause", "--pipe", "events")
    key = stage.put([event("a")])
    waiting = eventually(
        lambda: stage.run("status", "--pipe", "events", "--json"), lambda said: said.rows[0]["pending"] == 1
    )
    assert waiting.code == 1
    assert "resume" in waiting.rows[0]["meaning"]
    assert stage.count() == 0
    stage.done("resume")
    stage.loaded([key])


def test_bootstrap_stops_at_each_step_that_must_be_done_in_aws(
    aws: Aws, local: LocalProcess, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "stage", local, aws)
    stopped = stage.run("bootstrap")
    assert stopped.code == 1
    assert "does not exist" in stopped.err
    assert "snowflakeUserArn: arn:aws:iam::" in stopped.err
    trust = stage.done("trust-policy").rows
    condition = trust["Statement"][0]["Condition"]
    deployed = stage.topic.rpartition(":")[2].removesuffix("-archive")
    assert condition == {"StringEquals": {"sts:ExternalId": deployed}}
    stage.done("bootstrap", "--write")
    steps = {row["step"]: row["result"] for row in stage.done("bootstrap", "--json").rows}
    assert steps["policy of the topic"] == "allows Snowflake to subscribe"
    assert steps[f"{stage.database}.RAW.EVENTS_PIPE"] == "RUNNING"
    stage.close()


# --- roles: each command uses its own role


def owner(stage: Stage, kind: str, name: str) -> str:
    rows = stage.query(f"SHOW GRANTS ON {kind} {stage.database}.{name}")
    (role,) = {row["grantee_name"] for row in rows if row["privilege"] == "OWNERSHIP"}
    return str(role)


def test_each_command_uses_its_own_role_and_dbt_owns_its_tables(stage: Stage) -> None:
    stage.put([event("a")])
    assert stage.done("query", "SELECT CURRENT_ROLE() AS role", "--json").rows == [
        {"role": f"{stage.database}_OPERATOR"}
    ]
    stage.done("status")
    stage.done("dbt", "run", "--select", "+stg_events")
    assert owner(stage, "TABLE", "STAGING.STG_EVENTS") == f"{stage.database}_TRANSFORMER"
    assert owner(stage, "PIPE", "RAW.EVENTS_PIPE") == "ACCOUNTADMIN"
    stage.done("query", f"SELECT COUNT(*) AS n FROM {stage.database}.STAGING.STG_EVENTS")


def test_configured_role_is_used_instead_of_the_commands_own_role(stage: Stage) -> None:
    (stage.folder / "outputs.json").write_text(
        json.dumps(stage.outputs | {"snowflake": {**stage.outputs["snowflake"], "role": "SYSADMIN"}})
    )
    try:
        said = stage.done("query", "SELECT CURRENT_ROLE() AS role", "--json")
    finally:
        (stage.folder / "outputs.json").write_text(json.dumps(stage.outputs))
    assert said.rows == [{"role": "SYSADMIN"}]


def test_role_that_is_not_granted_is_reported(stage: Stage) -> None:
    environment = stage.environment | {"MILKRUN_LOCAL": str(stage.folder / "elsewhere")}
    folder = Path(environment["MILKRUN_LOCAL"])
    folder.mkdir()
    stranger = {**stage.outputs["snowflake"], "database": "NOT_APPLIED"}
    (folder / "outputs.json").write_text(json.dumps(stage.outputs | {"snowflake": stranger}))
    said = command(environment, "status")
    assert said.code == 2
    assert said.err.startswith("role not granted: ")
    assert "NOT_APPLIED_LOADER" in said.err


# --- dbt: three runs (on no data, half of the data, all of it), and tests of the result


@dataclass
class Built:
    stage: Stage
    lines: dict[int, list[bytes]]
    after_half: list[dict[str, object]]
    keys: dict[str, str]


def random_crossings(seed: int) -> list[bytes]:
    """Return random geofence events that cover every branch of the visit rule. They include equal times, gaps as
    long as the merge gap, repeated events, and events that share an id but differ in content.
    """
    rng = random.Random(seed)
    lines = []
    for number in range(40):
        device, fence = f"random-{seed}-{number // 2}", f"f-{number % 2}"
        at = MORNING + timedelta(minutes=rng.randrange(500), microseconds=rng.randrange(10**6))
        for step in range(rng.randrange(1, 14)):
            at += rng.choice(
                [
                    timedelta(0),
                    timedelta(seconds=120),
                    timedelta(seconds=120, microseconds=1),
                    timedelta(seconds=rng.uniform(0, 300)),
                    timedelta(hours=1),
                ]
            )
            kind = rng.choice(["enter", "enter", "exit", "exit", "dwell"])
            id_ = f"{seed}-{number}-{rng.randrange(12) if rng.random() < 0.3 else step}"
            made = crossing(id_, kind, at, device, fence)
            if rng.random() < 0.5:
                made["confidence"] = rng.randrange(4)
            if rng.random() < 0.5:
                made["duration"] = rng.choice([0, 1, 1.5, rng.uniform(0, 100)])
            if rng.random() < 0.3:
                made["type"] = made["type"].replace("user.", "user_")
            if rng.random() < 0.3:
                made["createdAt"] = at.astimezone(_zone(rng)).isoformat(timespec="microseconds")
            if rng.random() < 0.2:
                # nanoseconds, which are truncated
                made["createdAt"] = made["createdAt"].replace("+00:00", "999Z")
            if rng.random() < 0.1:
                made["createdAt"] = made["createdAt"].lower()
            if rng.random() < 0.2:
                made["deviceId"] = made.pop("user")["deviceId"]
            lines.append(json.dumps(made).encode())
            if rng.random() < 0.2:
                lines.append(lines[-1])
    rng.shuffle(lines)
    return lines


def _zone(rng: random.Random) -> object:
    from datetime import timezone

    return timezone(timedelta(minutes=rng.choice([-570, -60, 120, 345])))


LATE_ENTER = crossing("late-enter", "enter", MORNING, "van-late")
LATE_EXIT = crossing("late-exit", "exit", MORNING + timedelta(minutes=20), "van-late")
NEXT_ENTER = crossing("next-enter", "enter", MORNING + timedelta(hours=2), "van-late")
BETWEEN = crossing("between", "enter", MORNING, "van-between")
GHOST = crossing("ghost", "enter", MORNING + timedelta(minutes=1), "van-ghost")
PICKUP = event(
    "pickup", "pickup.completed", MORNING + timedelta(minutes=10),
    user={"deviceId": "van-late"}, metadata={"litres": 812.5},
)  # fmt: skip
# Another device used the id of van-late's pickup before that pickup was sent.
FORGED = PICKUP | {"user": {"deviceId": "van-thief"}, "metadata": {"litres": 1}}

# matches the keys, and is early enough that no event becomes too old
RECEIVED = datetime(2026, 11, 28, 12, tzinfo=UTC)
FORMS = [event(f"form-{n}", createdAt=text, actualCreatedAt=text) for n, (text, _) in enumerate(ACCEPTED)]

# Objects that an operator put under events/ by hand, and the reason why each is invalid
BY_HAND = [
    (b'[{"_id":"man-2","type":"x","deviceId":"man-dev","createdAt":"2026-11-28T12:54:50Z"}]', "not_an_object"),
    (b"null", "not_an_object"),
    (b"5", "not_an_object"),
    (b'"x"', "not_an_object"),
    (b"{}", "missing_id"),
    (b'{"_id":null,"type":"x","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}', "missing_id"),
    (b'{"_id":7,"type":"x","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}', "wrong_type"),
    (b'{"_id":"","type":"x","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}', "field_length"),
    (b'{"_id":"h1","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}', "missing_type"),
    (b'{"_id":"h2","type":"x","deviceId":"d"}', "missing_created_at"),
    (b'{"_id":"h3","type":"x","createdAt":"2026-11-28T12:54:50Z"}', "missing_identity"),
    (b'{"_id":"h4","type":"user.entered_geofence","createdAt":"2026-11-28T12:54:50Z"}', "missing_device"),
    (
        b'{"_id":"h5","type":"user.entered_geofence","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}',
        "missing_geofence",
    ),
    *((json.dumps(event(f"h-{n}", createdAt=text)).encode(), "invalid_created_at") for n, (text, _) in
      enumerate(REJECTED) if text[:4] not in ("0000", "0001", "9999")),
    *((json.dumps(event(f"h-{text}", createdAt=text)).encode(), code) for text, code in [
        ("0000-11-28T13:00:00Z", "created_at_too_old"),
        ("0001-01-01T00:00:00+10:00", "created_at_too_old"),
        ("9999-12-31T23:59:59-10:00", "created_at_in_future"),
    ]),
    *((json.dumps(crossing(f"h-{at:%Y%m%d}", "enter", at, "van-clock")).encode(), code) for at, code in [
        (datetime(8, 11, 28, 8, tzinfo=UTC), "created_at_too_old"),
        (datetime(1, 1, 1, tzinfo=UTC), "created_at_too_old"),
        (RECEIVED - timedelta(days=400, microseconds=1), "created_at_too_old"),
        (RECEIVED + timedelta(hours=25, microseconds=1), "created_at_in_future"),
        (datetime(9999, 12, 31, tzinfo=UTC), "created_at_in_future"),
    ]),
]  # fmt: skip
AT_THE_EDGE = [
    crossing("oldest", "enter", RECEIVED - timedelta(days=400), "van-clock"),
    crossing("newest", "exit", RECEIVED + timedelta(hours=25), "van-clock", duration=1e308),
]
# Models that a full refresh must reproduce; the others contain the state of one run.
LASTING_MODELS = [
    *(f"STAGING.{name}" for name in ("TYPED_EVENTS", "STG_EVENTS", "EVENT_CONFLICTS", "STG_GEOFENCE_EVENTS")),
    *(f"STAGING.{name}" for name in ("STG_REJECTED_EVENTS", "INVALID_ROWS", "GEOFENCE_PAIR_DAYS")),
    *(f"MARTS.{name}" for name in ("GEOFENCE_VISITS", "GEOFENCE_PAIRS", "DAILY_FARM_COLLECTIONS")),
    *(f"MARTS.{name}" for name in ("FLEET_DAILY", "INGEST_QUALITY")),
]
NO_REJECTS = [b'{"hello":1}', b"[]", b'{"reasons":[]}']

NO_LITRES = ["NaN", "inf", "-inf", -5, "-5", 1e300, None, [812.5], "1,5", "1_5", "0x1F"]
# Two positions 11 km apart without a geofence event, as the handler stores them
PINGS = [
    {"deviceId": "van-ping", "latitude": latitude, "longitude": 5.8, "accuracy": 8.5, "_id": f"ping-{latitude}",
     "updatedAt": at, "type": "location.ping", "createdAt": at}
    for latitude, at in ((53.2, "2026-11-16T08:00:00.123+0000"), (53.3, "2026-11-16T08:10:00.123+0000"))
]  # fmt: skip


def hostile_events(seed: int) -> list[bytes]:
    """Return events that the handler accepts, with strings and numbers that database engines are known to read
    differently.
    """
    rng = random.Random(seed)
    texts = ["a", "a\0", "a\0b", "A", "a ", " a", "e\u0301", "\u00e9", "'", '"', "\\", "%", "_", "\U0001f69a"]
    texts += [
        "\u2028",
        "\uffff",
        "NULL",
        "null",
        "NaN",
        "1,5",
        "1e5",
        "\u0663",
        "\t",
        "\x7f",
        "\u0130",
        "\u00df",
        "--",
    ]
    numbers: list[object] = [
        "1,5",
        "1_000",
        " 5",
        "5 ",
        "5\n",
        "\u0663",
        "0x1F",
        "1e3",
        "1E+3",
        ".5",
        "5.",
        "+5",
        "-0",
    ]
    numbers += [
        "--5",
        "1e999",
        "1e-400",
        "Infinity",
        "nan",
        "",
        "1\0",
        "1.000.000",
        "5e",
        "1e5.5",
        True,
        False,
        None,
    ]
    numbers += [[5], {"a": 5}, 5, 5.5, 1e6, 1_000_000.5, -0.0, 1e308, 10**300, 0.1, -1, 1e-320]
    durations = [None, 0, -1, -0.0, 2.5, 1e308, -1e308, 576_000, 576_000.5, 10**300]
    truths = [
        True,
        False,
        None,
        1,
        0,
        1.0,
        5,
        "TRUE",
        "yes",
        "On",
        "on ",
        "\u212a",
        "0",
        "off",
        [True],
        "1\0",
    ]
    events = []
    for number in range(500):
        at = MORNING + timedelta(minutes=rng.randrange(24 * 60), microseconds=rng.randrange(10**6))
        device, id_ = rng.choice(texts), f"hostile-{rng.choice(texts)}-{number % 350}"
        kind = rng.choice(["enter", "exit", "dwell", "pickup", "pickup"])
        if kind == "pickup":
            made = event(id_, "pickup.completed", at, user={"deviceId": device})
            made["metadata"] = rng.choice(
                [{"litres": rng.choice(numbers)}] * 9 + [None, [], "x", {"litres.x": 5}]
            )
        else:
            made = crossing(id_, kind, at, device, rng.choice(texts), duration=rng.choice(durations),
                            confidence=rng.choice([None, 0, 3, 2.0]))  # fmt: skip
            made["geofence"]["tag"] = "stop"
        made["replayed"] = rng.choice(truths)
        made["createdAt"] = rng.choice(
            [made["createdAt"], f"{at:%Y-%m-%d %H:%M:%S},5 +0000", f"{at:%Y-%m-%dT%H:%MZ}"]
        )
        if rng.random() < 0.2:
            made["deviceId"], made["user"] = device, None
        events.append(made)
    batch = validate(parse_body(json.dumps(events[:500]).encode(), "json"), "json", GEOFENCE_KINDS, RECEIVED)
    assert not batch.rejected
    return batch.lines


@pytest.fixture(scope="module")
def built(aws: Aws, local: LocalProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    if not DBT.exists():
        pytest.fail(f"{DBT} does not exist: run make setup")
    stage = Stage(tmp_path_factory.mktemp("dbt"), local, aws)
    stage.done("apply")
    stage.done("dbt", "--quiet", "run")
    first, second, hostile = random_crossings(1), random_crossings(2), hostile_events(3)
    half = first[: len(first) // 2]
    keys = {}
    earlier = [event("sent-twice", at=MORNING), LATE_ENTER, NEXT_ENTER, GHOST, FORGED]
    keys["earlier"] = stage.put([*half, *earlier], received_at=RECEIVED)
    keys["rejected"] = stage.put(
        [
            {"reasons": [{"code": "missing_id", "field": "_id", "message": "m"}], "index": 0,
             "event_id": None, "event": {"type": "x"}, "app_version": "4.2"},
            {"reasons": [{"code": "not_json", "field": "", "message": "m"}], "body_base64": "eA==",
             "content_type": None, "content_encoding": None},
        ],
        "rejected",
    )  # fmt: skip
    keys["by hand"] = f"events/dt={RECEIVED:%Y-%m-%d}/hh=12/by-hand.ndjson"
    keys["no rejects"] = "rejected/by-hand.ndjson"
    for key, lines in (("by hand", [line for line, _ in BY_HAND]), ("no rejects", NO_REJECTS)):
        body = b"\xef\xbb\xbf" + b"\r\n".join(lines)
        stage.aws.s3.put_object(Bucket=stage.bucket, Key=keys[key], Body=body)
    stage.loaded([keys["earlier"], keys["by hand"]])
    stage.loaded([keys["rejected"], keys["no rejects"]], "RAW.REJECTED")
    with local.days_later(1):  # so that the later run does not read the earlier rows again
        stage.loaded([stage.put([BETWEEN], received_at=RECEIVED)])
    stage.done("dbt", "--quiet", "run")
    after_half = _visits(stage)
    # S3's times are in whole seconds, so later objects must be a second younger.
    eventually(
        lambda: datetime.now(UTC).replace(microsecond=0), lambda now: now > _second_of(stage, keys["earlier"])
    )
    turned = GHOST | {"type": "user.exited_geofence", "createdAt": MORNING.isoformat()}
    later = [
        event("sent-twice", at=MORNING, metadata={"other": True}),
        event("sent-twice", at=MORNING),
        LATE_EXIT,
        LATE_ENTER,
        turned,
        PICKUP,
        *(PICKUP | {"_id": f"pickup-{n}", "metadata": {"litres": said}} for n, said in enumerate(NO_LITRES)),
        *AT_THE_EDGE,
        *PINGS,
        *FORMS,
        *(event(f"replayed-{n}", replayed=said) for n, said in enumerate([True, "true", 1, 5, "no", None])),
    ]
    with local.days_later(2):
        keys["later"] = stage.put([*first[len(half) :], *second, *later, *hostile], received_at=RECEIVED)
        again = [event("sent-twice", at=MORNING, metadata={"other": True}), PICKUP]
        keys["later-again"] = stage.put(again, received_at=RECEIVED)
        stage.loaded([keys["later"], keys["later-again"]])
    stage.done("dbt", "--quiet", "build")
    lines = {1: [json.dumps(e).encode() for e in [*earlier, BETWEEN]] + half}
    lines[2] = [*first, *second, *hostile, *(json.dumps(e).encode() for e in [*earlier, BETWEEN, *later])]
    yield Built(stage, lines, after_half, keys)
    stage.close()


def _second_of(stage: Stage, key: str) -> datetime:
    return stage.aws.s3.head_object(Bucket=stage.bucket, Key=key)["LastModified"]


def _visits(stage: Stage) -> list[dict[str, object]]:
    return stage.query(f"SELECT * FROM {stage.database}.MARTS.GEOFENCE_VISITS")


def geofence_events(lines: list[bytes]) -> list[GeofenceEvent]:
    return [geofence_event(line) for line in lines if b"_geofence" in line]


def by_the_rule(lines: list[bytes]) -> set[tuple[object, ...]]:
    return {
        (pair.device_id, *pair.fence, visit.entered_at, visit.entered_event_id, visit.exited_at,
         visit.exited_event_id, visit.exit_missed, visit.is_open, visit.last_seen_at,
         visit.dwell_seconds, visit.app_dwell_seconds)
        for pair, history in visits_of(geofence_events(lines)).items()
        for visit in history.visits
    }  # fmt: skip


def by_the_mart(rows: list[dict[str, object]]) -> set[tuple[object, ...]]:
    def utc(at: datetime | None) -> datetime | None:
        return at and at.replace(tzinfo=UTC)

    def number(seconds: Decimal | None) -> float | None:
        """Convert a quotient to a float, because in Snowflake the quotient of two NUMBERs is a NUMBER
        ("Arithmetic operators").
        """
        return None if seconds is None else float(seconds)

    return {
        (row["device_id"], row["geofence_tag"], row["geofence_external_id"], utc(row["entered_at"]),
         row["entered_event_id"], utc(row["exited_at"]), row["exited_event_id"], row["exit_missed"],
         row["is_there_now"], utc(row["last_seen_at"]), number(row["dwell_seconds"]), row["app_dwell_seconds"])
        for row in rows
    }  # fmt: skip


def test_dbt_and_the_consumer_derive_the_same_visits_from_random_events(built: Built) -> None:
    assert by_the_mart(built.after_half) == by_the_rule(built.lines[1])
    found = _visits(built.stage)
    assert by_the_mart(found) == by_the_rule(built.lines[2])
    assert len(found) == len(by_the_mart(found)) > 100


@pytest.mark.slow
def test_dbt_docs_are_generated_and_every_model_states_its_grain(built: Built) -> None:
    built.stage.done("dbt", "--quiet", "docs", "generate")
    target = built.stage.folder / "dbt" / "target"
    catalog, manifest = (
        json.loads((target / f"{name}.json").read_text()) for name in ("catalog", "manifest")
    )
    models = {name: node for name, node in manifest["nodes"].items() if node["resource_type"] == "model"}
    assert catalog["errors"] is None
    assert set(models) == set(catalog["nodes"])
    assert all("row per" in " ".join(node["description"].lower().split()) for node in models.values())


def test_dbt_and_the_consumer_count_the_same_orphan_exits(built: Built) -> None:
    rows = built.stage.query(f"SELECT * FROM {built.stage.database}.MARTS.GEOFENCE_PAIRS")
    found = {
        (row["device_id"], row["geofence_tag"], row["geofence_external_id"]): int(row["orphan_exits"])
        for row in rows
    }
    histories = visits_of(geofence_events(built.lines[2]))
    assert found == {
        (pair.device_id, *pair.fence): history.orphan_exits for pair, history in histories.items()
    }


def test_late_event_restates_the_visits_it_changes(built: Built) -> None:
    before = {row["entered_event_id"]: row for row in built.after_half if row["device_id"] == "van-late"}
    after = {row["entered_event_id"]: row for row in _visits(built.stage) if row["device_id"] == "van-late"}
    assert before["late-enter"]["exit_missed"]
    assert not after["late-enter"]["exit_missed"]
    assert after["late-enter"]["exited_event_id"] == "late-exit"
    assert float(after["late-enter"]["dwell_seconds"]) == 1200
    assert after["next-enter"]["is_there_now"]


def test_visit_disappears_if_its_enter_event_is_replaced_by_an_exit(built: Built) -> None:
    assert [row for row in built.after_half if row["device_id"] == "van-ghost"]
    assert not [row for row in _visits(built.stage) if row["device_id"] == "van-ghost"]


def test_event_is_staged_once_and_deliveries_with_different_content_are_listed_as_conflicts(
    built: Built,
) -> None:
    stage = built.stage
    (kept,) = stage.query(f"SELECT * FROM {stage.database}.STAGING.STG_EVENTS WHERE EVENT_ID = 'sent-twice'")
    assert kept["file_name"] == built.keys["earlier"]
    (conflict,) = stage.query(
        f"SELECT * FROM {stage.database}.STAGING.EVENT_CONFLICTS WHERE EVENT_ID = 'sent-twice'"
    )
    assert json.loads(conflict["payload"])["metadata"] == {"other": True}
    assert conflict["deliveries"] == 2
    assert conflict["kept_file_name"] == built.keys["earlier"]
    repeated = stage.query(
        f"SELECT * FROM {stage.database}.STAGING.EVENT_CONFLICTS WHERE EVENT_ID = 'pickup'"
    )
    assert repeated == []


def test_staging_has_one_row_per_event_key_defined_by_the_contract(built: Built) -> None:
    stage = built.stage
    rows = stage.query(f"SELECT EVENT_KEY FROM {stage.database}.STAGING.STG_EVENTS")
    keys = {check(json.loads(line)).owned.event_key for line in built.lines[2]}
    assert sorted(row["event_key"] for row in rows) == sorted(keys)


def test_event_id_used_by_two_devices_is_stored_once_per_device(built: Built) -> None:
    stage = built.stage
    rows = stage.query(f"SELECT * FROM {stage.database}.STAGING.STG_EVENTS WHERE EVENT_ID = 'pickup'")
    litres = {row["device_id"]: json.loads(row["metadata"])["litres"] for row in rows}
    assert litres == {"van-late": 812.5, "van-thief": 1}


def test_warehouse_parses_every_accepted_time_format_correctly(built: Built) -> None:
    rows = built.stage.query(
        f"SELECT EVENT_ID, OCCURRED_AT, APP_SERVER_CREATED_AT FROM {built.stage.database}.STAGING.STG_EVENTS "
        "WHERE EVENT_ID LIKE 'form-%'"
    )
    found = {row["event_id"]: (row["occurred_at"], row["app_server_created_at"]) for row in rows}
    meant = [datetime.fromisoformat(utc) for _, utc in ACCEPTED]
    assert found == {f"form-{n}": (at, at) for n, at in enumerate(meant)}


def test_ping_positions_count_towards_the_devices_kilometres(built: Built) -> None:
    stage = built.stage
    staged = stage.query(
        f"SELECT LATITUDE, LONGITUDE, LOCATION_ACCURACY_METRES FROM {stage.database}.STAGING.STG_EVENTS "
        "WHERE EVENT_TYPE = 'location.ping' ORDER BY LATITUDE"
    )
    assert [tuple(map(float, row.values())) for row in staged] == [(53.2, 5.8, 8.5), (53.3, 5.8, 8.5)]
    [day] = stage.query(f"SELECT * FROM {stage.database}.MARTS.FLEET_DAILY WHERE DEVICE_ID = 'van-ping'")
    assert day["events"] == 2
    assert 11 < float(day["kilometres"]) < 11.3
    visits = stage.query(f"SELECT 1 FROM {stage.database}.MARTS.GEOFENCE_VISITS WHERE DEVICE_ID = 'van-ping'")
    assert visits == []


def test_invalid_rows_are_listed_with_reasons_and_excluded_from_models(
    built: Built,
) -> None:
    stage = built.stage
    rows = stage.query(f"SELECT * FROM {stage.database}.STAGING.INVALID_ROWS ORDER BY FILE_ROW_NUMBER")
    events = [row for row in rows if row["source_table"] == "events"]
    assert {row["file_name"] for row in events} == {built.keys["by hand"]}
    assert [(row["file_row_number"], row["code"]) for row in events] == [
        (line, code) for line, (_, code) in enumerate(BY_HAND, 1)
    ]
    rejects = [row for row in rows if row["source_table"] == "rejected"]
    assert [(row["file_name"], row["code"]) for row in rejects] == [
        (built.keys["no rejects"], "not_a_reject")
    ] * 3
    for model in ("STG_EVENTS", "STG_GEOFENCE_EVENTS", "EVENT_CONFLICTS"):
        assert stage.query(f"SELECT 1 FROM {stage.database}.STAGING.{model} WHERE EVENT_ID IS NULL") == []
    assert stage.query(f"SELECT 1 FROM {stage.database}.STAGING.STG_REJECTED_EVENTS WHERE CODE IS NULL") == []


def test_marts_stay_finite_despite_extreme_numbers_from_phones(built: Built) -> None:
    for mart in ("GEOFENCE_VISITS", "DAILY_FARM_COLLECTIONS", "FLEET_DAILY", "INGEST_QUALITY"):
        for row in built.stage.query(f"SELECT * FROM {built.stage.database}.MARTS.{mart}"):
            assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), row
    (average,) = built.stage.query(
        f"SELECT AVG(APP_DWELL_SECONDS) AS A, MAX(DWELL_SECONDS) AS B FROM {built.stage.database}.MARTS.GEOFENCE_VISITS"
    )
    assert average["a"] < 576_000 * 60
    assert average["b"] == timedelta(days=401, hours=1).total_seconds()


def test_ingest_quality_counts_events_conflicts_and_rejects(built: Built) -> None:
    stage = built.stage
    rows = stage.query(f"SELECT * FROM {stage.database}.MARTS.INGEST_QUALITY")
    rejected = {
        (row["code"], row["app_version"]): row["events"] for row in rows if row["outcome"] == "rejected"
    }
    assert rejected == {("missing_id", "4.2"): 1, ("not_json", ""): 1}
    accepted = [row for row in rows if row["outcome"] == "accepted"]
    assert sum(row["events"] for row in accepted) == stage.count("STAGING.STG_EVENTS")
    assert sum(row["deliveries"] for row in accepted) == stage.count() - len(BY_HAND)
    invalid = {row["code"]: row["events"] for row in rows if row["outcome"] == "invalid"}
    assert invalid == {**Counter(code for _, code in BY_HAND), "not_a_reject": len(NO_REJECTS)}
    assert sum(row["conflicts"] for row in accepted) == stage.count("STAGING.EVENT_CONFLICTS") > 0


def test_mart_plain_sql_and_sqlite_agree_on_farm_collections(built: Built, tmp_path: Path) -> None:
    columns = ["visits", "devices", "pickups", "litres", "dwell_seconds", "missed_exits", "open_visits"]
    key = ["collection_date", "geofence_tag", "geofence_external_id"]
    mart, plain, small = _three_ways(built, tmp_path, "daily_farm_collections", key, columns)
    assert mart == plain == small
    farms = [row for key, row in mart.items() if key[1] == "farm"]
    assert sum(row[2] for row in farms) == 1 + len(NO_LITRES)
    # In addition, `dbt build` passed, which tests for negative litres.
    assert sum(row[3] for row in farms) == 812.5


def test_mart_plain_sql_and_sqlite_agree_on_daily_fleet_figures(built: Built, tmp_path: Path) -> None:
    columns = ["events", "replayed_events", "litres"]
    mart, plain, small = _three_ways(built, tmp_path, "fleet_daily", ["event_date", "device_id"], columns)
    assert mart == plain == small
    assert sum(row[1] for (_, device), row in mart.items() if device == "van-1") == 3


def _three_ways(
    built: Built, folder: Path, name: str, key: list[str], columns: list[str]
) -> list[dict[object, object]]:
    stage = built.stage
    mart = stage.query(f"SELECT * FROM {stage.database}.MARTS.{name}")
    stage.query(f"USE DATABASE {stage.database}")
    plain = stage.query((SQL / f"{name}.sql").read_text())
    path = folder / "events.db"
    stage.done("load", "--to", f"sqlite:///{path}", "--from", f"s3://{stage.bucket}/")
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        small = [dict(row) for row in database.execute((SQL / f"{name}.sqlite.sql").read_text())]

    def keyed(rows: list[dict[str, object]]) -> dict[object, object]:
        return {
            tuple(str(row[k]) for k in key): tuple(round(float(row[c]), 5) for c in columns) for row in rows
        }

    return [keyed(mart), keyed(plain), keyed(small)]


def test_second_load_into_sqlite_adds_only_new_objects(built: Built, tmp_path: Path) -> None:
    stage = built.stage
    to = ["load", "--to", f"sqlite:///{tmp_path}/events.db", "--json", "--from", f"s3://{stage.bucket}/"]
    assert stage.done(*to).rows[0]["lines"] == stage.count()
    assert stage.done(*to).rows == [{"objects": 0, "lines": 0, "left_out": []}]


@pytest.mark.slow
@pytest.mark.timeout(900)  # two runs of dbt, on a busy machine
def test_full_refresh_produces_the_same_result_as_incremental_runs(built: Built) -> None:
    """tests/e2e/test_marts.py makes the same comparison for many random histories."""
    stage = built.stage

    def found() -> dict[str, Counter[str]]:
        return {
            model: Counter(
                json.dumps(_without_noise(row), default=str)
                for row in stage.query(f"SELECT * FROM {stage.database}.{model}")
            )
            for model in LASTING_MODELS
        }

    incremental = found()
    stage.done("dbt", "--quiet", "run", "--full-refresh")
    assert found() == incremental


def _without_noise(row: dict[str, object]) -> dict[str, object]:
    """Return the row without the values that may differ between runs.

    Sums are rounded, because they depend on the order of additions. `loaded_at` depends on which delivery was
    read first, and `read_through` is the run that added the row; both are dropped.
    """
    return {
        name: round(value, 5) if isinstance(value, float) else value
        for name, value in row.items()
        if name not in ("loaded_at", "read_through")
    }
