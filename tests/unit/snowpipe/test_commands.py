"""Test the error messages of the warehouse commands, and the parts of the commands that need no warehouse."""

import gzip
import json
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from moto import mock_aws
from snowflake.connector.errors import ProgrammingError

from cli.refusal import Refusal
from local_snowflake.testing import free_port
from snowpipe.history import bad_lines
from snowpipe.pipe_health import triage
from snowpipe.pipes import Status
from snowpipe.quoting import quoted
from snowpipe.settings import load
from snowpipe.sqlite import Folder
from snowpipe.sqlite import load as load_to_sqlite
from snowpipe.warehouse import Snowflake
from tests.unit.snowpipe.warehouse_stage import command

SIGN_IN = {"SNOWFLAKE_ACCOUNT": "a", "SNOWFLAKE_USER": "u", "SNOWFLAKE_PASSWORD": "p"}
NOW = datetime(2026, 11, 16, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[3]


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n")


def outputs(folder: Path, **snowflake: object) -> dict[str, str]:
    connection = {
        "account": "a",
        "user": "u",
        "password": "p",
        "host": "127.0.0.1",
        "protocol": "http",
    } | snowflake
    found = {
        "bucket": "milkrun",
        "topic_arn": "arn:aws:sns:eu-west-1:123456789012:milkrun-dev-archive",
        "snowflake": connection,
    }
    (folder / "outputs.json").write_text(json.dumps(found))
    return {"MILKRUN_LOCAL": str(folder)}


def test_missing_stack_is_reported_with_the_command_that_starts_one(tmp_path: Path) -> None:
    said = command({"MILKRUN_LOCAL": str(tmp_path)}, "status")
    assert said.code == 2
    assert one_line(said.err)
    assert "make up" in said.err


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"snowflake": {"user": "u"}}'])
def test_invalid_outputs_file_is_refused_with_a_one_line_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "outputs.json").write_text(text)
    said = command({"MILKRUN_LOCAL": str(tmp_path)}, "apply")
    assert said.code == 2
    assert one_line(said.err)
    assert "outputs.json" in said.err


@pytest.mark.parametrize("arguments", [["apply"], ["query", "SELECT 1"], ["history"], ["pause"]])
def test_refused_connection_to_snowflake_is_reported_with_a_one_line_error(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The connector would pause for a second and then try again.
    monkeypatch.setattr("snowflake.connector.time_util.TimeoutBackoffCtx.should_retry", False)
    said = command(outputs(tmp_path, port=free_port()), *arguments)
    assert said.code == 2
    assert one_line(said.err)
    assert "no connection to Snowflake at http://127.0.0.1" in said.err


def test_invalid_argument_is_reported_with_a_one_line_error() -> None:
    said = command({}, "history", "--limit", "none")
    assert said.code == 2
    assert one_line(said.err)


def test_invalid_time_is_refused_before_any_query(tmp_path: Path) -> None:
    said = command(outputs(tmp_path, port=1), "history", "--since", "someday")
    assert (said.code, one_line(said.err)) == (2, True)
    assert "someday" in said.err


@pytest.mark.parametrize(("verb", "state"), [("pause", "PAUSED"), ("resume", "RUNNING")])
def test_pause_and_resume_continue_with_the_other_pipe_after_one_failed(
    verb: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def query(self, sql: str, _: object = ()) -> list[dict[str, str]]:
            if sql.startswith("ALTER PIPE MILKRUN.RAW.EVENTS_PIPE"):
                raise Refusal("its queue still contains 3 files", 1)
            return [{"status": json.dumps({"executionState": state})}]

    monkeypatch.setattr("snowpipe.deployed_stage.Stage.warehouse", lambda *_: nullcontext(Session()))
    said = command(outputs(tmp_path), verb, "--json")
    assert (said.code, said.err) == (1, "its queue still contains 3 files\n")
    assert [(row["pipe"], row["state"]) for row in json.loads(said.out)] == [
        ("MILKRUN.RAW.REJECTED_PIPE", state)
    ]


@pytest.mark.parametrize(
    "verb", [["status"], ["refresh"], ["backfill", "--from", "now"], ["reload", "events/k"], ["resume"]]
)
def test_database_that_loads_another_bucket_is_refused_before_anything_changes(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def query(self, sql: str, _: object = ()) -> list[dict[str, str]]:
            assert sql.startswith("SHOW STAGES")
            return [{"name": "EVENTS_STAGE", "url": "s3://milkrun-prod/events/"}]

    monkeypatch.setattr("snowpipe.deployed_stage.Stage.warehouse", lambda *_: nullcontext(Session()))
    monkeypatch.setattr("snowpipe.deployed_stage.Stage._require_s3", lambda _: None)
    said = command(outputs(tmp_path), *verb)
    assert (said.code, one_line(said.err)) == (2, True)
    assert "MILKRUN loads s3://milkrun-prod/events/, but the configured bucket is milkrun" in said.err


def test_apply_sql_refuses_a_database_name_that_contains_sql(tmp_path: Path) -> None:
    said = command(outputs(tmp_path, database="MILKRUN; DROP DATABASE X"), "apply", "--sql")
    assert (said.code, said.out, one_line(said.err)) == (2, "", True)


@pytest.mark.parametrize("arguments", [["apply"], ["status"], ["pause"], ["history"], ["refresh"]])
def test_database_name_that_contains_sql_is_refused_by_warehouse_commands(
    tmp_path: Path, arguments: list[str]
) -> None:
    said = command(outputs(tmp_path, database="X.RAW.P SET COMMENT = '' --", port=1), *arguments)
    assert (said.code, one_line(said.err)) == (2, True)
    assert "snowflake.database" in said.err or "connection.database" in said.err


def test_lower_case_database_name_is_converted_to_upper_case() -> None:
    environment = SIGN_IN | {"SNOWFLAKE_DATABASE": "milkrun"}
    assert load(environment).connection.database == "MILKRUN"


def test_each_stage_has_its_own_warehouse_unless_one_is_configured() -> None:
    environment = SIGN_IN | {"SNOWFLAKE_DATABASE": "milkrun_dev"}
    assert load(environment).connection.warehouse == "MILKRUN_DEV_WH"
    assert load(environment | {"SNOWFLAKE_WAREHOUSE": "SHARED"}).connection.warehouse == "SHARED"


def test_real_account_without_a_database_name_is_refused() -> None:
    said = command({"SNOWFLAKE_ACCOUNT": "a", "SNOWFLAKE_USER": "u"}, "status")
    assert (said.code, one_line(said.err)) == (2, True)
    assert "SNOWFLAKE_DATABASE" in said.err


@pytest.mark.parametrize(
    ("topic", "role"),
    [
        (
            "arn:aws:sns:eu-west-1:123456789012:milkrun-dev-archive",
            "arn:aws:iam::123456789012:role/milkrun-dev-eu-west-1-snowflake",
        ),
        (
            "arn:aws-cn:sns:cn-north-1:123456789012:milkrun-prod-archive",
            "arn:aws-cn:iam::123456789012:role/milkrun-prod-cn-north-1-snowflake",
        ),
    ],
)
def test_storage_role_is_named_after_the_stage_and_the_region(tmp_path: Path, topic: str, role: str) -> None:
    environment = outputs(tmp_path)
    stack = tmp_path / "outputs.json"
    stack.write_text(json.dumps(json.loads(stack.read_text()) | {"topic_arn": topic}))
    assert f"STORAGE_AWS_ROLE_ARN = '{role}'" in command(environment, "apply", "--sql").out


@pytest.mark.parametrize("key", ["missing", "no-key", "without-password", "wrong-password"])
def test_unusable_key_file_is_reported_in_one_line_without_revealing_secrets(
    tmp_path: Path, key: str
) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"the-right-one")
    )
    file = tmp_path / "key.p8"
    if key != "missing":
        file.write_bytes(b"secret, but no key" if key == "no-key" else private)
    environment = {
        "SNOWFLAKE_ACCOUNT": "a",
        "SNOWFLAKE_USER": "u",
        "SNOWFLAKE_HOST": "127.0.0.1",
        "SNOWFLAKE_DATABASE": "MILKRUN_DEV",
        "SNOWFLAKE_PRIVATE_KEY_FILE": str(file),
    }
    if key == "wrong-password":
        environment["SNOWFLAKE_PRIVATE_KEY_FILE_PWD"] = "the-wrong-one"
    said = command(environment, "query", "SELECT 1")
    assert (said.code, one_line(said.err)) == (2, True)
    assert "no connection to Snowflake" in said.err
    assert not re.search("secret|PRIVATE KEY|-one", said.err)


class Cursor:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, *_: object) -> None:
        raise self.error


class Connection:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def cursor(self, *_: object) -> Cursor:
        return Cursor(self.error)

    def is_valid(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("number", "begins"),
    [
        (3001, "missing privilege: "),
        (2003, "missing object: "),
        (2043, "missing object: "),
        (904, "Snowflake refused: "),
    ],
)
def test_snowflake_errors_are_reported_in_one_line(number: int, begins: str) -> None:
    error = ProgrammingError(msg="SQL access control error:\nInsufficient privileges", errno=number)
    with pytest.raises(Refusal) as refused:
        Snowflake(Connection(error), "there").query("SELECT 1")
    assert str(refused.value).startswith(begins)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("arguments", [["bootstrap", "--write"], ["sns-policy", "--write"]])
@pytest.mark.parametrize("endpoint", [None, "https://vpce-1.sns.eu-west-1.vpce.amazonaws.com"])
def test_write_option_is_refused_if_cloudformation_owns_the_policies(
    tmp_path: Path, arguments: list[str], endpoint: str | None
) -> None:
    environment = outputs(tmp_path, port=1)
    stack = tmp_path / "outputs.json"
    stack.write_text(json.dumps(json.loads(stack.read_text()) | {"aws_endpoint_url": endpoint}))
    said = command(environment, *arguments)
    assert (said.code, one_line(said.err)) == (2, True)
    assert "CloudFormation owns" in said.err


# --- diagnosis


def status(state: str = "RUNNING", **times: object) -> Status:
    return Status(executionState=state, **times)


LONG_AGO, LATELY = NOW - timedelta(hours=3), NOW - timedelta(minutes=20)


@pytest.mark.parametrize(
    ("found", "newest", "healthy", "says"),
    [
        (status("PAUSED", pendingFileCount=3), None, False, "3 files waiting"),
        (status("STOPPED_MISSING_TABLE"), None, False, "table does not exist"),
        (status("STALLED_STAGE_PERMISSION_ERROR"), None, False, "trust-policy"),
        (status("SOMETHING_NEW"), None, False, "SOMETHING_NEW"),
        (status(channelErrorMessage="denied"), None, False, "denied"),
        (status(pendingFileCount=9, oldestFileTimestamp=LONG_AGO), None, False, "stuck: 9"),
        (status(pendingFileCount=9, oldestFileTimestamp=NOW), None, True, "loading: 9"),
        (status(), None, True, "nothing loaded yet"),
        (status(lastReceivedMessageTimestamp=LONG_AGO), LATELY, False, "no notification"),
        (
            status(lastReceivedMessageTimestamp=NOW, lastForwardedMessageTimestamp=LONG_AGO),
            LATELY,
            False,
            "no object key matches",
        ),
        (
            status(
                lastReceivedMessageTimestamp=NOW,
                lastForwardedMessageTimestamp=NOW,
                lastIngestedTimestamp=LONG_AGO,
            ),
            LATELY,
            False,
            "history --failed",
        ),
        (status(lastIngestedTimestamp=NOW - timedelta(seconds=7)), LATELY, True, "7 s ago"),
        (status(), NOW - timedelta(seconds=5), True, "nothing loaded yet"),
    ],
)
def test_diagnosis_names_the_first_broken_step_between_bucket_and_table(
    found: Status, newest: datetime | None, healthy: bool, says: str
) -> None:
    verdict = triage(found, newest, NOW)
    assert verdict.healthy is healthy
    assert says in verdict.words


# --- details


def test_invalid_lines_are_listed_by_number_and_truncated_gzip_is_reported() -> None:
    text = b'{"a":1}\n{"a":1,"a":2}\n\n{"b":NaN}\n'
    assert [bad.line for bad in bad_lines(text)] == [2, 4]
    assert [bad.line for bad in bad_lines(gzip.compress(text))] == [2, 4]
    cut = list(bad_lines(gzip.compress(text)[:-9]))
    assert cut[-1].problem == "the gzip is truncated"
    assert [bad.problem for bad in bad_lines(b"")] == ["the object is empty"]


def test_sql_literal_escapes_quotes_and_backslashes() -> None:
    assert quoted(r"it's \ here") == r"'it''s \\ here'"


# --- load into SQLite


def test_folder_load_skips_the_rejected_prefix_and_objects_with_an_invalid_line(tmp_path: Path) -> None:
    def put(key: str, *lines: str) -> None:
        path = tmp_path / "copy" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))

    good = '{"_id":"a","type":"x","createdAt":"1969-12-31T23:59:59.5Z","deviceId":"d"}'
    put("events/dt=2026-11-16/hh=08/one.2.ndjson.gz", good, good)
    put("events/dt=2026-11-16/hh=08/two.2.ndjson.gz", good, '{"_id":')
    put("rejected/dt=2026-11-16/hh=08/three.1.ndjson.gz", good)
    to = f"sqlite:///{tmp_path}/events.db"
    said = command({}, "load", "--to", to, "--from", str(tmp_path / "copy"), "--json")
    assert said.code == 1
    (done,) = said.rows
    assert (done["objects"], done["lines"], len(done["left_out"])) == (1, 2, 1)
    assert "line 2" in done["left_out"][0]["result"]
    # Loading from the folder events/ finds the same keys, so nothing is loaded again.
    again = command({}, "load", "--to", to, "--from", str(tmp_path / "copy" / "events"), "--json")
    assert (again.rows[0]["objects"], again.rows[0]["lines"]) == (0, 0)
    with sqlite3.connect(tmp_path / "events.db") as database:
        rows = database.execute("SELECT file_name, occurred_us FROM events").fetchall()
    assert rows == [("events/dt=2026-11-16/hh=08/one.2.ndjson.gz", -500_000)] * 2


def test_sqlite_load_ignores_boms_blank_lines_and_form_feeds(tmp_path: Path) -> None:
    line = b'{"_id":"%d","type":"x","createdAt":"2026-11-16T08:00:00Z","deviceId":"d"}'
    mark = b"\xef\xbb\xbf"
    body = mark + line % 1 + b"\r\n \r\n\x0c\n" + mark + line % 2 + b"\n\x0c" + line % 3 + b"\v\n"
    (tmp_path / "made.ndjson").write_bytes(body)
    (tmp_path / "made-too.ndjson.gz").write_bytes(
        gzip.compress(line % 4) + gzip.compress(b"\n" + mark + line % 5)
    )
    said = command({}, "load", "--to", f"sqlite:///{tmp_path}/events.db", "--from", str(tmp_path), "--json")
    assert said.rows == [{"objects": 2, "lines": 5, "left_out": []}]
    with sqlite3.connect(tmp_path / "events.db") as database:
        found = database.execute(
            "SELECT event_id, file_row_number, payload FROM events ORDER BY 1"
        ).fetchall()
    assert [(id_, number) for id_, number, _ in found] == [("1", 1), ("2", 4), ("3", 5), ("4", 1), ("5", 2)]
    assert [payload.encode() for *_, payload in found] == [line % n for n in range(1, 6)]


def test_load_adds_the_columns_that_an_older_sqlite_file_lacks(tmp_path: Path) -> None:
    event = (
        '{"_id":"a\\u0000b","type":"pickup.completed","createdAt":"2026-11-16 08:00:00+0000","deviceId":"d"}'
    )
    key = "events/dt=2026-11-16/hh=08/one.1.ndjson.gz"
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("CREATE TABLE loads (object_key TEXT PRIMARY KEY, lines INTEGER, loaded_at TEXT)")
        database.execute(
            "CREATE TABLE events (payload TEXT, occurred_us INTEGER, file_name TEXT, file_row_number INTEGER, "
            "file_modified_at TEXT, PRIMARY KEY (file_name, file_row_number))"
        )
        for number, payload in enumerate([event, "[]"], 1):
            row = (payload, None, key, number, "2026-11-16T08:00:01+00:00")
            database.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", row)
    (tmp_path / "empty").mkdir()
    to = f"sqlite:///{tmp_path}/events.db"
    for _ in range(2):
        command({}, "load", "--to", to, "--from", str(tmp_path / "empty"))
    with sqlite3.connect(tmp_path / "events.db") as database:
        rows = database.execute(
            "SELECT event_id, occurred_us, invalid_code FROM events ORDER BY rowid"
        ).fetchall()
    assert rows == [("a\0b", 1794816000_000000, None), (None, None, "not_an_object")]


def test_daily_fleet_figures_in_sqlite_have_microseconds_as_in_snowflake(tmp_path: Path) -> None:
    folder = tmp_path / "events/dt=2026-11-16/hh=23"
    folder.mkdir(parents=True)
    times = ("2026-11-16T23:00:00.123456Z", "2026-11-16T23:59:59.9999Z")
    lines = [f'{{"_id":"{at}","type":"x","createdAt":"{at}","deviceId":"d"}}\n' for at in times]
    (folder / "one.2.ndjson").write_text("".join(lines))
    command({}, "load", "--to", f"sqlite:///{tmp_path}/events.db", "--from", str(tmp_path))
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.row_factory = sqlite3.Row
        [row] = database.execute((ROOT / "snowpipe/sql/fleet_daily.sqlite.sql").read_text()).fetchall()
    assert (row["first_event_at"], row["last_event_at"]) == (
        "2026-11-16 23:00:00.123456",
        "2026-11-16 23:59:59.999900",
    )


def test_several_loaders_may_create_the_same_sqlite_file_concurrently(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    source = Folder(tmp_path / "empty")
    with ThreadPoolExecutor(4) as loaders:
        for number in range(40):  # one file is not enough to detect a race
            path = tmp_path / f"{number}.db"
            found = [loaders.submit(lambda path=path: list(load_to_sqlite(path, source))) for _ in range(4)]
            assert [each.result() for each in found] == [[]] * 4


def test_load_of_a_whole_bucket_ignores_empty_objects_and_prefixes_without_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    others = (
        "compacted/_manifests/dt=2026-11-16/hh=08.json",
        "forget/r1/plan.json",
        "glue/compact.py",
        "rebuilt/r/differences.ndjson",
        "resent/dt=2026-11-16/hh=08/a.ndjson.gz",
        "streamed/live/checkpoint/metadata",
    )
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="archive")
        good = b'{"_id":"a","type":"x","createdAt":"2026-11-16T08:00:00Z","deviceId":"d"}'
        s3.put_object(Bucket="archive", Key="events/dt=2026-11-16/hh=08/a.ndjson", Body=good)
        s3.put_object(Bucket="archive", Key="events/")
        for key in others:
            s3.put_object(Bucket="archive", Key=key, Body=b"{\n}")
        environment = {"AWS_REGION": "us-east-1", "MILKRUN_LOCAL": str(tmp_path)}
        to = f"sqlite:///{tmp_path}/events.db"
        said = command(environment, "load", "--to", to, "--from", "s3://archive/", "--json")
    assert said.code == 0
    assert said.rows == [{"objects": 1, "lines": 1, "left_out": []}]


@pytest.mark.parametrize("to", ["events.db", "sqlite://", "postgresql:///x"])
def test_load_command_accepts_only_a_sqlite_url(tmp_path: Path, to: str) -> None:
    said = command({}, "load", "--to", to, "--from", str(tmp_path))
    assert (said.code, one_line(said.err)) == (2, True)
