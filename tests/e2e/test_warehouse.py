"""Test the warehouse end to end: DDL, pipes, dbt and commands on a local Snowflake, with moto for S3, SNS and SQS.

No stack is needed: the tests start all services on free loopback ports.
"""

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from local_snowflake.testing import Aws, LocalProcess, eventually
from snowpipe import loading, pipe_health, pipes
from snowpipe.archive import Archive
from snowpipe.ddl_files import definitions
from snowpipe.pipe_check.metrics import failed_loads_sql
from snowpipe.pipes import Kind, Pipe
from snowpipe.recreate import Recreation
from snowpipe.warehouse import Row
from tests.e2e.pipeline import Event
from tests.unit.snowpipe.warehouse_stage import Stage, command

MORNING = datetime(2026, 11, 16, 6, tzinfo=UTC)


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


@pytest.mark.slow
def test_apply_refuses_a_changed_pipe_and_recreate_replaces_it_without_losing_rows(stage: Stage) -> None:
    keys = [stage.put([event(f"before-{n}")]) for n in range(5)]
    stage.loaded(keys)
    # Replace the pipe by hand, as an operator might. This discards its load history.
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

    assert stage.done("recreate", "--json").rows[0]["result"] == "recreated"
    stage.done("apply")
    after = stage.put([event("after")])
    stage.loaded([*keys, after])
    assert stage.count() == 6


@pytest.mark.slow
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


@pytest.mark.slow
def test_recreate_interrupted_at_different_steps_continues_without_losing_rows(stage: Stage) -> None:
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
    """A warehouse whose running pipe always reports a file in its queue. A replaced pipe reports its real queue."""

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


@pytest.mark.slow
def test_recreate_pauses_the_pipe_again_if_a_late_notification_arrives_during_the_pause(stage: Stage) -> None:
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
    assert warehouse.pauses == 3, "the old pipe must be paused twice, and the new pipe once"
    assert stage.count() == 1


@pytest.mark.slow
def test_pipe_that_cannot_load_its_queued_files_is_recreated_without_waiting(stage: Stage) -> None:
    keys = [stage.put([event("before")])]
    stage.loaded(keys)
    stage.query(f"DROP STAGE {stage.database}.RAW.EVENTS_STAGE")
    keys += [stage.put([event(f"meanwhile-{n}")]) for n in range(3)]
    stage.done("apply")
    state = f"SELECT SYSTEM$PIPE_STATUS('{stage.database}.RAW.EVENTS_PIPE')"
    broken = eventually(lambda: json.loads(stage.one(state)), lambda s: s["pendingFileCount"] == 3)
    assert broken["executionState"] == "STOPPED_STAGE_DROPPED"

    assert broken["executionState"] in pipe_health.NEED_RECREATE  # otherwise `recreate` would skip the pipe
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


@pytest.mark.slow
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


def test_backfill_loads_each_object_without_a_notification_exactly_once(stage: Stage) -> None:
    notified = stage.put([event("notified")])
    stage.loaded([notified])
    # Remove the bucket's notifications, so that the pipes are not notified of new objects.
    stage.aws.s3.put_bucket_notification_configuration(Bucket=stage.bucket, NotificationConfiguration={})
    (Path(stage.folder) / "outputs.json").write_text(json.dumps(stage.outputs | {"topic_arn": stage.topic}))
    missed = [stage.put([event(f"missed-{n}")], received_at=MORNING + timedelta(hours=n)) for n in range(30)]
    done = stage.done("backfill", "--from", MORNING.isoformat(), "--to", "now", "--json").rows
    assert {row["key"] for row in done} == set(missed)
    assert stage.done("backfill", "--from", MORNING.isoformat(), "--json").rows == []
    assert stage.count() == 31


@pytest.mark.slow
def test_refresh_queues_each_file_without_a_notification_exactly_once(
    stage: Stage, local: LocalProcess
) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("last", [pytest.param("DELETE", marks=pytest.mark.slow), "FORCE"])
def test_interrupted_reload_keeps_the_previous_rows(stage: Stage, last: str) -> None:
    key = stage.put([event("a"), event("b")])
    stage.loaded([key])
    pipe = Pipe(stage.database, Kind.events)
    copy = next(d for d in _ddl(stage) if d.is_pipe and d.pipe == pipe.name).copy_statement
    with pytest.raises(ConnectionError):
        loading.reload(Breaking(stage, last), pipe, Archive(stage.aws.s3, stage.bucket), copy, key)
    assert stage.rows_of(key) == 2


@pytest.mark.slow
def test_readers_see_the_old_rows_until_a_reload_is_complete(stage: Stage) -> None:
    key = stage.put([event("a"), event("b")])
    stage.loaded([key])
    pipe = Pipe(stage.database, Kind.events)
    copy = next(d for d in _ddl(stage) if d.is_pipe and d.pipe == pipe.name).copy_statement
    stage.query(f"DELETE FROM {stage.database}.RAW.EVENTS WHERE FILE_ROW_NUMBER = 2")
    seen: list[int] = []

    class Watched:
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            rows = stage.warehouse.query(sql, parameters)
            sql_count = f"SELECT COUNT(*) AS n FROM {stage.database}.RAW.EVENTS"
            seen.append(stage.done("query", sql_count, "--json").rows[0]["n"])
            return rows

    loading.reload(Watched(), pipe, Archive(stage.aws.s3, stage.bucket), copy, key)
    *before, after = seen  # the last statement is COMMIT
    assert (set(before), after) == ({1}, 2)


@pytest.mark.slow
def test_history_lists_failed_files_despite_newer_loaded_files(stage: Stage) -> None:
    bad = stage.put([b'{"_id":"b2","type":'])
    eventually(lambda: stage.run("history", "--failed", "--json").rows, bool)
    stage.loaded([stage.put([event(f"{n}")]) for n in range(3)])
    (row,) = stage.done("history", "--failed", "--limit", "1", "--json").rows
    assert row["key"] == bad
    assert len(stage.done("history", "--limit", "2", "--json").rows) == 2


def messages_in_queue(stage: Stage, aws: Aws) -> int:
    """Return the number of notifications that the local Snowflake has not deleted from its queue yet."""
    [pipe] = stage.query(f"DESC PIPE {stage.database}.RAW.EVENTS_PIPE")
    topic = aws.sns.list_subscriptions_by_topic(TopicArn=str(pipe["notification_channel"]))
    [queue] = [each["Endpoint"] for each in topic["Subscriptions"] if "sf-snowpipe" in each["Endpoint"]]
    url = aws.sqs.get_queue_url(QueueName=queue.rpartition(":")[2])["QueueUrl"]
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(count) for count in counts.values())


@pytest.mark.slow
def test_stale_pipe_is_resumed_and_loads_files_with_expired_notifications(
    stage: Stage, local: LocalProcess, aws: Aws
) -> None:
    loaded = stage.put([event("before")])
    stage.loaded([loaded])
    stage.done("pause", "--pipe", "events")
    forgotten = stage.put([event("forgotten")])
    eventually(
        lambda: stage.run("status", "--pipe", "events", "--json"), lambda said: said.rows[0]["pending"] == 1
    )
    # Otherwise SQS would deliver the notification again two weeks later, and it would not count as expired.
    eventually(lambda: messages_in_queue(stage, aws), lambda messages: messages == 0)
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
        assert stage.done("recreate", "--all", "--pipe", "events", "--json").rows[0]["result"] == "recreated"
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


@pytest.mark.slow
def test_bootstrap_stops_at_a_missing_aws_permission_and_succeeds_after_it_is_granted(
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


@pytest.mark.slow  # dbt runs
def test_query_uses_the_operator_role_and_dbt_the_transformer_role(stage: Stage) -> None:
    stage.put([event("a")])
    assert stage.done("query", "SELECT CURRENT_ROLE() AS role", "--json").rows == [
        {"role": f"{stage.database}_OPERATOR"}
    ]
    stage.done("status")
    stage.done("dbt", "run", "--select", "+stg_events")
    assert owner(stage, "TABLE", "STAGING.STG_EVENTS") == f"{stage.database}_TRANSFORMER"
    assert owner(stage, "PIPE", "RAW.EVENTS_PIPE") == "ACCOUNTADMIN"
    stage.done("query", f"SELECT COUNT(*) AS n FROM {stage.database}.STAGING.STG_EVENTS")


@pytest.mark.slow
def test_configured_role_is_used_instead_of_the_commands_own_role(stage: Stage) -> None:
    (stage.folder / "outputs.json").write_text(
        json.dumps(stage.outputs | {"snowflake": {**stage.outputs["snowflake"], "role": "SYSADMIN"}})
    )
    try:
        said = stage.done("query", "SELECT CURRENT_ROLE() AS role", "--json")
    finally:
        (stage.folder / "outputs.json").write_text(json.dumps(stage.outputs))
    assert said.rows == [{"role": "SYSADMIN"}]


@pytest.mark.slow
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
