"""Test commands that load files or list loads. The fake warehouse also gives answers that are rare in Snowflake."""

import json
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.deadline import NoAnswerError
from cli.refusal import Refusal
from snowpipe import loading
from snowpipe.archive import Archive, Object
from snowpipe.ddl_files import Definition
from snowpipe.deployed_stage import Stage
from snowpipe.pipes import Kind, Pipe
from snowpipe.recreate import Progress, Recreation
from snowpipe.roles import Role
from snowpipe.warehouse import Row
from tests.unit.snowpipe.test_archive import FakeS3
from tests.unit.snowpipe.warehouse_stage import command

NOW = datetime(2020, 11, 16, 8, 30, tzinfo=UTC)
PIPE = Pipe("MILKRUN", Kind.events)
KEYS = ("events/dt=2020-11-16/hh=08/a.ndjson", "events/dt=2020-11-16/hh=08/b.ndjson")
ALREADY_LOADED: Row = {"status": "Copy executed with 0 files processed."}
LOADED: Row = {"file": "dt=2020-11-16/hh=08/a.ndjson", "status": "LOADED", "rows_loaded": 1}
FAILED: Row = {
    "file": "dt=2020-11-16/hh=08/b.ndjson",
    "status": "LOAD_FAILED",
    "rows_loaded": 0,
    "first_error": "Error parsing JSON",
}
COLUMNS = ("file_name", "status", "row_count", "row_parsed", "error_count", "last_load_time", "file_size")
# A row of COPY_HISTORY without values.
NO_LOAD: Row = dict.fromkeys((*COLUMNS, "pipe_name", "first_error_line_number", "first_error_message"), None)


class FakeWarehouse:
    """A warehouse that answers COPY with `copied`.

    It answers other statements as if the pipe had loaded nothing, unless a test sets other answers, such as `loads`.
    """

    def __init__(self, copied: Sequence[Row] = (), refuses: Exception | None = None) -> None:
        self.copied = list(copied)
        self.refuses = refuses
        self.state = "PAUSED" if refuses else "RUNNING"
        self.statements: list[str] = []
        self.loads: list[Row] = []
        self.failed: list[Row] = []
        self.now = NOW - timedelta(seconds=30)
        self.created_at = NOW - timedelta(days=30)
        self.rows_of_earlier_pipe = 0
        self.ingested_at: datetime | None = None

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        del parameters
        self.statements.append(sql)
        if "PIPE_STATUS" in sql:
            loaded = {"lastIngestedTimestamp": self.ingested_at.isoformat()} if self.ingested_at else {}
            return [{"status": json.dumps({"executionState": self.state, **loaded})}]
        if "PIPE_EXECUTION_PAUSED" in sql and self.refuses:
            raise self.refuses
        if "PIPE_FORCE_RESUME" in sql:
            self.state = "RUNNING"
        if "CURRENT_TIMESTAMP() AS NOW" in sql:
            self.now += timedelta(seconds=30)
            return [{"now": self.now}]
        if sql.startswith("DESC PIPE"):
            return [{"created_on": self.created_at, "error_integration": None}]
        if sql.startswith("SHOW GRANTS"):
            return [{"privilege": "MONITOR", "grantee_name": "data-engineers"}]
        if "COUNT(*) AS n" in sql:
            return [{"n": self.rows_of_earlier_pipe}]
        if "'Load failed'" in sql:
            return self.failed
        if limit := re.search(r"COPY_HISTORY.* LIMIT (\d+)$", sql, re.DOTALL):
            return self.loads[: int(limit[1])]
        return self.copied if sql.startswith("COPY") else []


class FakeArchive:
    bucket = "bucket"

    def received(self, prefix: str, start: datetime, end: datetime) -> list[Object]:
        del prefix, start, end
        return [Object(key, NOW - timedelta(minutes=10), 1) for key in KEYS]


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeWarehouse:
    """Make the commands use a fake warehouse and a fake archive with two objects; return the warehouse."""
    fake = FakeWarehouse([LOADED, FAILED])
    monkeypatch.setattr(Stage, "archive", FakeArchive())
    monkeypatch.setattr(Stage, "warehouse", lambda *_: nullcontext(fake))
    (tmp_path / "outputs.json").write_text(
        json.dumps(
            {
                "bucket": "bucket",
                "topic_arn": "arn:aws:sns:eu-west-1:123456789012:milkrun-dev-archive",
                "snowflake": {"account": "a", "user": "u", "password": "p"},
            }
        )
    )
    return fake


def test_files_that_another_backfill_has_just_loaded_are_not_counted_as_copied() -> None:
    found = loading.backfill(FakeWarehouse([ALREADY_LOADED]), PIPE, FakeArchive(), "COPY", NOW, NOW)
    assert (found.copied, found.skipped, found.rows) == (0, 2, [])


def test_backfill_skips_a_file_that_the_pipe_is_loading() -> None:
    """The file has left the pipe's queue, but its rows are not visible yet."""

    class Loading(FakeWarehouse):
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            rows = super().query(sql, parameters)
            in_progress = NO_LOAD | {"file_name": PIPE.staged(KEYS[0]), "status": "Load in progress"}
            return [in_progress] if "COPY_HISTORY" in sql and "'Load in progress'" in sql else rows

    warehouse = Loading()
    loading.backfill(warehouse, PIPE, FakeArchive(), "COPY", NOW, NOW)
    (copy,) = [each for each in warehouse.statements if each.startswith("COPY")]
    assert copy.endswith(f"FILES = ('{PIPE.staged(KEYS[1])}')")


def test_backfill_also_copies_objects_whose_load_status_snowflake_does_not_know() -> None:
    """By default, COPY skips objects over 64 days old if the table's first load was also over 64 days ago."""
    warehouse = FakeWarehouse([LOADED])
    loading.backfill(warehouse, PIPE, FakeArchive(), "COPY", NOW, NOW)
    (copy,) = [each for each in warehouse.statements if each.startswith("COPY")]
    assert "LOAD_UNCERTAIN_FILES = TRUE" in copy


def test_resume_reports_expired_files_that_cannot_be_loaded(deployed: FakeWarehouse, tmp_path: Path) -> None:
    said = command(
        {"MILKRUN_LOCAL": str(tmp_path)}, "resume", "--pipe", "events", "--since", "2020-11-16", "--json"
    )
    assert said.code == 1
    assert said.rows == [{"pipe": PIPE.name, "state": "RUNNING", "expired_files": 1}]
    assert said.err == f"{KEYS[1]} was not loaded (LOAD_FAILED); see: milkrun warehouse validate\n"


def test_pipe_is_not_forced_to_resume_if_snowflake_does_not_respond(
    deployed: FakeWarehouse, tmp_path: Path
) -> None:
    deployed.state, deployed.refuses = "PAUSED", NoAnswerError("no answer from Snowflake within 10 s")
    said = command({"MILKRUN_LOCAL": str(tmp_path)}, "resume", "--pipe", "events")
    assert (said.code, said.err) == (2, "no answer from Snowflake within 10 s\n")
    assert not any("FORCE_RESUME" in each for each in deployed.statements)


def test_stale_pipe_is_resumed_by_the_loader_and_the_command_for_an_interrupted_run_is_named(
    deployed: FakeWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's user has no administrator role; the loader's privilege OPERATE suffices."""
    roles: list[str] = []

    def warehouse(stage: Stage, role: Role) -> AbstractContextManager[FakeWarehouse]:
        roles.append(role(stage.settings.connection.database))
        return nullcontext(deployed)

    monkeypatch.setattr(Stage, "warehouse", warehouse)
    deployed.state, deployed.refuses = "PAUSED", Refusal("Snowflake refused: the pipe is stale")
    deployed.ingested_at = NOW - timedelta(days=15)
    said = command({"MILKRUN_LOCAL": str(tmp_path)}, "resume", "--pipe", "events")
    assert roles == ["MILKRUN_LOADER"]
    assert "milkrun warehouse resume --pipe events --since 2020-11-01T08:30:00+00:00" in said.err


def test_recreate_waits_by_snowflakes_clock_and_reports_files_that_cannot_be_loaded(
    deployed: FakeWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's clock is years ahead of Snowflake's."""
    no_pause = SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic)
    monkeypatch.setattr("snowpipe.recreate.time", no_pause)
    environment = {"MILKRUN_LOCAL": str(tmp_path)}
    copy = command(environment, "apply", "--sql").out.partition("\nAS\n")[2].partition(";")[0]
    progress = {
        "copy_statement": copy,
        "done": ["rest", "keep_grants", "replace", "pause_new", "grant", "resume", "refresh"],
        "border": (NOW - timedelta(minutes=1)).isoformat(),
    }
    (tmp_path / f"recreate-{PIPE.name.lower()}.json").write_text(json.dumps(progress))
    said = command(environment, "recreate", "--pipe", "events", "--json")
    assert said.code == 1
    assert said.rows == [{"pipe": PIPE.name, "result": "recreated", "loaded_by_hand": 1}]
    assert said.err.endswith(f"{KEYS[1]} was not loaded (LOAD_FAILED); see: milkrun warehouse validate\n")
    assert deployed.now > NOW + timedelta(minutes=1), "recreate did not wait for late notifications"


def test_recreate_continues_with_a_pipe_that_an_interrupted_run_may_have_paused(
    deployed: FakeWarehouse, tmp_path: Path
) -> None:
    deployed.refuses = NoAnswerError("no answer from Snowflake within 10 s; the statement may have run")
    environment = {"MILKRUN_LOCAL": str(tmp_path)}
    assert command(environment, "recreate", "--all", "--pipe", "events").code == 2
    deployed.state = "PAUSED"
    assert command(environment, "recreate", "--pipe", "events").code == 2, (
        "recreate took the pipe for a healthy one"
    )


@pytest.mark.parametrize(("minutes_ago", "code"), [(5, 0), (60, 1)])
def test_status_expects_no_notification_of_an_object_that_is_older_than_its_pipe(
    deployed: FakeWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes_ago: int, code: int
) -> None:
    """A pipe that was just replaced has not heard of the objects that the earlier pipe loaded."""
    now = datetime.now(UTC)
    stored_at = now - timedelta(minutes=10)
    key = f"rejected/dt={stored_at:%Y-%m-%d}/hh={stored_at:%H}/a.ndjson"
    monkeypatch.setattr(Stage, "archive", Archive(FakeS3(key, modified_at=stored_at), "bucket"))
    deployed.created_at = now - timedelta(minutes=minutes_ago)
    assert command({"MILKRUN_LOCAL": str(tmp_path)}, "status", "--pipe", "rejected").code == code


def test_status_shows_the_pipes_even_if_s3_refuses_the_credentials(
    deployed: FakeWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(prefix: str, after: datetime) -> None:
        del after
        raise Refusal(f"could not list s3://bucket/{prefix}: ExpiredToken")

    monkeypatch.setattr(FakeArchive, "newest", staticmethod(refuse), raising=False)
    said = command({"MILKRUN_LOCAL": str(tmp_path)}, "status", "--json")
    assert (said.code, [row["state"] for row in said.rows]) == (2, ["RUNNING", "RUNNING"])
    assert said.err.count("ExpiredToken") == 1


@pytest.mark.parametrize(("limit", "says"), [(2, True), (3, False)])
def test_history_mentions_its_limit_only_if_it_omits_older_loads(
    deployed: FakeWarehouse, tmp_path: Path, limit: int, says: bool
) -> None:
    deployed.loads = [NO_LOAD | {"file_name": f"{n}.ndjson"} for n in range(3)]
    said = command(
        {"MILKRUN_LOCAL": str(tmp_path)}, "history", "--pipe", "events", "--limit", str(limit), "--json"
    )
    assert (said.code, len(said.rows)) == (0, limit)
    assert said.err == (
        f"{PIPE.name}: the list contains only the newest 2 loads; for more, use --limit\n" if says else ""
    )


@pytest.mark.parametrize(
    ("created", "since", "after"),
    [
        (NOW - timedelta(days=30), None, None),
        (NOW - timedelta(days=2), None, NOW - timedelta(days=2)),
        (NOW - timedelta(days=30), NOW - timedelta(days=10), None),
        (NOW - timedelta(days=30), NOW - timedelta(days=1), NOW - timedelta(days=1)),
    ],
)
def test_refresh_omits_modified_after_if_it_is_older_than_seven_days(
    created: datetime, since: datetime | None, after: datetime | None
) -> None:
    warehouse = FakeWarehouse()
    warehouse.created_at, warehouse.rows_of_earlier_pipe = created, 1
    loading.refresh_pipe(warehouse, PIPE, since=since)
    expected = f" MODIFIED_AFTER = '{after.isoformat()}'" if after else ""
    assert warehouse.statements[-1] == f"ALTER PIPE {PIPE.name} REFRESH{expected}"


def test_refresh_ignores_a_folder_marker_because_no_other_command_loads_it() -> None:
    class Bucket(FakeArchive):
        def objects(self, prefix: str) -> list[Object]:
            return [Object(prefix, NOW - timedelta(days=20), 0), Object(KEYS[0], NOW - timedelta(days=20), 1)]

    assert loading.refresh(FakeWarehouse(), PIPE, Bucket()).out_of_reach == [KEYS[0]]


def test_resume_loads_a_file_whose_request_began_in_the_hour_before_the_pause() -> None:
    """The key contains the hour in which the request began; the file was written after the pause."""
    written_at = datetime(2020, 11, 16, 9, 0, 2, tzinfo=UTC)

    class Bucket(FakeArchive):
        def received(self, prefix: str, start: datetime, end: datetime) -> list[Object]:
            del prefix, end
            return [Object(KEYS[0], written_at, 1)] if start < written_at.replace(second=0) else []

    warehouse = FakeWarehouse([LOADED])
    paused_at = written_at - timedelta(seconds=1)
    rows = loading.load_expired(warehouse, PIPE, Bucket(), "COPY", paused_at, timedelta(0))
    assert rows == [{"key": KEYS[0], "result": "LOADED"}]


class Repaired(FakeArchive):
    """An archive with an object that `repair` stored at `received_at` in the hour folder of a file that had failed."""

    key = "events/dt=2020-11-15/hh=03/repaired.ndjson"

    def __init__(self, received_at: datetime) -> None:
        self.received_at = received_at

    def received(self, prefix: str, start: datetime, end: datetime) -> list[Object]:
        del prefix, start, end
        return []

    def in_hours(self, prefix: str, start: datetime, end: datetime) -> list[Object]:
        found = f"{prefix}dt={start:%Y-%m-%d}/hh={start:%H}/" in self.key and start == end
        return [Object(self.key, self.received_at, 1)] if found else []


FAILED_THEN = "events/dt=2020-11-15/hh=03/failed.ndjson"


@pytest.mark.parametrize(("before_pause", "loads"), [(timedelta(minutes=1), 1), (timedelta(hours=1), 0)])
def test_recreate_loads_a_repaired_file_only_if_it_was_repaired_just_before_the_pause(
    tmp_path: Path, before_pause: timedelta, loads: int
) -> None:
    paused_at = NOW - timedelta(minutes=10)
    warehouse = FakeWarehouse([{"file": PIPE.staged(Repaired.key), "status": "LOADED", "rows_loaded": 1}])
    archive = Repaired(paused_at - before_pause)
    again = recreation(warehouse, archive, tmp_path, Progress(copy_statement="COPY", failed=[FAILED_THEN]))
    again.progress.border = paused_at
    assert again.check() == loads


def test_resume_loads_a_file_that_was_repaired_during_the_pause() -> None:
    warehouse = FakeWarehouse([{"file": PIPE.staged(Repaired.key), "status": "LOADED", "rows_loaded": 1}])
    warehouse.failed = [NO_LOAD | {"file_name": PIPE.staged(FAILED_THEN)}]
    paused_at = NOW - timedelta(hours=10)
    archive = Repaired(paused_at + timedelta(hours=1))
    rows = loading.load_expired(warehouse, PIPE, archive, "COPY", paused_at, timedelta(0))
    assert rows == [{"key": Repaired.key, "result": "LOADED"}]


def test_recreate_that_continues_after_eight_days_loads_the_files_that_refresh_does_not(
    tmp_path: Path,
) -> None:
    border = NOW - timedelta(days=8)

    class Bucket(FakeArchive):
        def received(self, prefix: str, start: datetime, end: datetime) -> list[Object]:
            del prefix, start
            found = (Object(KEYS[0], border + timedelta(hours=n), 1) for n in (1, 30))
            return [each for each in found if each.modified_at <= end]

    warehouse = FakeWarehouse([LOADED])
    again = recreation(warehouse, Bucket(), tmp_path, Progress(copy_statement="COPY", border=border))
    again.refresh()
    assert warehouse.statements[-1] == f"ALTER PIPE {PIPE.name} REFRESH"
    assert again.check() == 1


def test_recreate_restores_the_grant_of_a_role_whose_name_must_be_quoted(tmp_path: Path) -> None:
    warehouse = FakeWarehouse()
    again = recreation(warehouse, FakeArchive(), tmp_path, Progress(copy_statement="COPY"))
    again.keep_grants()
    again.grant()
    assert warehouse.statements[-1] == f'GRANT MONITOR ON PIPE {PIPE.name} TO ROLE "data-engineers"'


def test_recreate_pauses_the_pipe_again_if_somebody_resumed_it_after_an_interruption(tmp_path: Path) -> None:
    warehouse = FakeWarehouse()
    paused_at = NOW - timedelta(hours=1)
    progress = Progress(copy_statement="COPY INTO T", done=["rest", "keep_grants"], border=paused_at)
    again = recreation(warehouse, FakeArchive(), tmp_path, progress)
    again.grace = timedelta(0)
    again.state.write_text(progress.model_dump_json())
    again.run()
    steps = [each for each in warehouse.statements if each.startswith(("ALTER", "CREATE"))]
    assert "PIPE_EXECUTION_PAUSED = TRUE" in steps[0]
    assert "CREATE OR REPLACE PIPE" in steps[1]
    assert paused_at.isoformat() not in steps[-1], "REFRESH would queue files that the old pipe has loaded"


class BusyWarehouse(FakeWarehouse):
    """A warehouse whose pipe loads its files in time, but always has another one in its queue."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        rows = super().query(sql, parameters)
        if "PIPE_STATUS" not in sql:
            return rows
        queue = {"pendingFileCount": 1, "oldestFileTimestamp": self.now.isoformat()}
        return [{"status": json.dumps({"executionState": self.state, **queue})}]


class BusyArchive(FakeArchive):
    """An archive with an object from the time of a pause and one that was stored just now."""

    def received(self, prefix: str, start: datetime, end: datetime) -> list[Object]:
        del prefix, start, end
        return [Object(KEYS[0], NOW - timedelta(hours=1), 1), Object(KEYS[1], NOW, 1)]


def test_recreate_ends_although_new_files_keep_arriving_in_the_queue(tmp_path: Path) -> None:
    progress = Progress(copy_statement="COPY", border=NOW - timedelta(hours=1))
    again = recreation(BusyWarehouse([LOADED]), BusyArchive(), tmp_path, progress)
    again.timeout = timedelta(0)
    assert again.check() == 1


def test_resume_loads_expired_files_but_no_queued_one_although_new_files_keep_arriving() -> None:
    warehouse = BusyWarehouse([LOADED])
    paused_at = NOW - timedelta(hours=2)
    loading.load_expired(warehouse, PIPE, BusyArchive(), "COPY", paused_at, timedelta(0))
    (copy,) = [each for each in warehouse.statements if each.startswith("COPY")]
    assert copy.endswith(f"FILES = ('{PIPE.staged(KEYS[0])}')")


def recreation(
    warehouse: FakeWarehouse, archive: FakeArchive, folder: Path, progress: Progress
) -> Recreation:
    definition = Definition(Path("pipe.sql"), "CREATE PIPE IF NOT EXISTS P AS\nCOPY INTO T")
    made = Recreation(warehouse, PIPE, definition, archive, folder / "state.json", lambda _: None)
    made.progress = progress
    return made
