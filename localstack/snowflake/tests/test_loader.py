"""Test, with a fake S3, that the loader loads each file exactly once, in any order and despite repeated messages
and failed reads. Also test stalled pipes, error notifications and the search for invalid rows.
"""

import io
import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import botocore.exceptions
import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_snowflake import loader
from local_snowflake.access import Access
from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog
from local_snowflake.catalog_objects import Integration, Location, Pipe, Stage
from local_snowflake.channel import Aws, Channels
from local_snowflake.clock import AdvancedClock
from local_snowflake.copy_by_hand import Bulk
from local_snowflake.delivery import InOrder
from local_snowflake.engine import DurableFakeSnow
from local_snowflake.error_notifications import Notices
from local_snowflake.errors import SnowflakeError
from local_snowflake.loader import LoadedFile, Loader, StagedFile
from local_snowflake.parse_staged_file import Content, Row
from local_snowflake.plans import NotRunnable, Plan
from local_snowflake.snowpipe import Ingest
from local_snowflake.sql import Name, Scope, Words

ROWS = 3


class FlakyS3:
    """A fake S3 in which every object has three rows. Reading a key in `down` returns status 503, a key in
    `gone` does not exist, and a key in `archived` is in Glacier and cannot be read.
    """

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.gone: set[str] = set()
        self.archived: set[str] = set()

    def get_object(self, Bucket: str, Key: str) -> dict[str, object]:  # parameters are named as in boto3
        if Key in self.down:
            raise refusal("SlowDown", 503)
        if Key in self.gone:
            raise refusal("NoSuchKey", 404)
        if Key in self.archived:
            raise refusal("InvalidObjectState", 403)
        body = "\n".join(f'{{"row": "{Key}-{row}"}}' for row in range(ROWS)).encode()
        return {"Body": io.BytesIO(body), "ETag": '"e"', "LastModified": datetime.now(UTC)}


def refusal(code: str, status: int) -> Exception:
    answer: object = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "GetObject")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.s3 = FlakyS3()
        self.fakesnow = DurableFakeSnow(folder)
        self.catalog = Catalog(self.fakesnow, AdvancedClock())
        session = self.fakesnow.connect().cursor()
        session.execute("CREATE DATABASE D")
        session.execute("CREATE SCHEMA D.S")
        self.catalog.put_stage(
            Stage("stage", Name("D", "S", "ST"), "s3://b/", {"TYPE": "JSON"}, None, None), ""
        )
        self.loader = Loader(self.catalog, self.s3, Authority(Access(self.catalog)))
        channels = Channels(Aws("http://127.0.0.1:1", "us-east-1"), "A", 1)
        self.ingest = Ingest(self.catalog, self.loader, channels, InOrder())

    def pipe(self) -> Pipe:
        """Create a pipe that loads into a new table, and return the pipe."""
        name = f"T{uuid.uuid4().hex[:8].upper()}"
        self.catalog.rows(f"CREATE TABLE D.S.{name} (v JSON)")
        pipe = Pipe(
            name,
            Name("D", "S", name),
            f"COPY INTO D.S.{name} FROM (SELECT $1 FROM @D.S.ST)",
            auto_ingest=True,
            topic=None,
            channel=None,
            integration=None,
            error_integration=None,
            comment=None,
            stage_id="stage",
            location=Location("b", "", "", None),
            paused_on=None,
            created_on=datetime.now(UTC),
        )
        self.catalog.add_pipe(pipe)
        return pipe

    def rows(self, pipe: Pipe) -> Counter[str]:
        return Counter(row[0] for row in self.catalog.rows(f"SELECT v->>'$.row' FROM {pipe.name.sql}"))

    def close(self) -> None:
        self.fakesnow.duck_conn.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("loader"))
    yield bench
    bench.close()


def files(*numbers: int) -> list[StagedFile]:
    return [StagedFile("b", f"k{number}", f"k{number}", 10, datetime.now(UTC)) for number in numbers]


def wanted(*numbers: int) -> Counter[str]:
    return Counter(f"k{number}-{row}" for number in numbers for row in range(ROWS))


numbers = st.lists(st.integers(0, 9), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(numbers, st.sets(st.integers(0, 9))), max_size=5))
def test_each_file_is_loaded_once_in_any_order_despite_repeats_and_read_failures(
    bench: Bench, deliveries: list[tuple[list[int], set[int]]]
) -> None:
    pipe = bench.pipe()
    sent: set[int] = set()
    for batch, down in deliveries:
        bench.s3.down = {f"k{number}" for number in down}
        again, reason = bench.ingest.load_files(pipe, files(*batch))
        assert (reason is not None) == bool(again)
        assert {file.key for file in again} <= {f"k{number}" for number in batch}
        sent |= set(batch) - {int(file.key[1:]) for file in again}
        assert bench.rows(pipe) == wanted(*sent)
    bench.s3.down = set()
    everything = {number for batch, _ in deliveries for number in batch}
    assert bench.ingest.load_files(pipe, files(*everything)) == (set(), None)
    assert bench.rows(pipe) == wanted(*everything)


def test_rows_and_history_are_committed_together_or_not_at_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = bench.pipe()

    def fail(*_: object) -> None:
        raise duckdb.IOException("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("local_snowflake.loader.record", fail)
        with pytest.raises(duckdb.IOException):
            bench.ingest.load_files(pipe, files(1, 2))
    assert bench.rows(pipe) == Counter()
    bench.ingest.load_files(pipe, files(1, 2))
    assert bench.rows(pipe) == wanted(1, 2)


def test_pipe_stalls_and_its_files_wait_if_the_rows_cannot_be_inserted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = bench.pipe()

    def fail(*_: object) -> None:
        raise duckdb.OutOfMemoryException("too much")

    with monkeypatch.context() as broken:
        broken.setattr("local_snowflake.loader.insert_rows", fail)
        assert bench.ingest.load_files(pipe, files(1, 2)) == (set(), None)
    with pytest.raises(NotRunnable) as stalled:
        bench.ingest.runnable(pipe)
    assert stalled.value.state == "STALLED_EXECUTION_ERROR"
    assert bench.ingest.waiting_since(pipe)[0] == 2
    bench.catalog.changed()  # as after any DDL statement, so that the pipe retries before RETRY_STALLED
    bench.ingest.load_waiting()
    assert bench.rows(pipe) == wanted(1, 2)
    assert bench.ingest.waiting_since(pipe)[0] == 0


def test_files_that_are_being_added_to_the_waiting_files_are_counted_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = bench.pipe()
    counts: list[int] = []
    reader = threading.Thread(target=lambda: counts.append(bench.ingest.pending(pipe)[0]))
    put_waiting = bench.ingest.put_waiting

    def put_waiting_while_somebody_counts(*arguments: object) -> None:
        put_waiting(*arguments)
        reader.start()
        reader.join(timeout=0.2)

    monkeypatch.setattr(bench.ingest, "put_waiting", put_waiting_while_somebody_counts)
    bench.catalog.set_pipe(pipe.name, "paused_on", bench.catalog.clock())
    bench.ingest.load_files(bench.catalog.pipe(pipe.name), files(1, 2))
    reader.join(timeout=5)
    assert counts == [2]


def test_repeated_notification_of_a_loaded_file_adds_no_pending_file_to_a_paused_pipe(bench: Bench) -> None:
    pipe = bench.pipe()
    bench.ingest.load_files(pipe, files(1))
    bench.catalog.set_pipe(pipe.name, "paused_on", bench.catalog.clock())
    paused = bench.catalog.pipe(pipe.name)
    bench.ingest.load_files(paused, files(1))
    assert bench.ingest.pending(paused)[0] == 0
    bench.ingest.load_files(paused, files(1, 2))
    assert bench.ingest.pending(paused)[0] == 1


def test_failing_pipe_does_not_delay_files_of_other_pipes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipes = sorted((bench.pipe(), bench.pipe()), key=lambda pipe: pipe.name)
    for pipe in pipes:
        bench.ingest.put_waiting(pipe, files(1))
    load_files = bench.ingest.load_files

    def fails_for_the_first(pipe: Pipe, *arguments: object, **more: object) -> object:
        if pipe == pipes[0]:
            raise duckdb.IOException("cannot write to the first pipe's table")
        return load_files(pipe, *arguments, **more)

    with monkeypatch.context() as broken:
        broken.setattr(bench.ingest, "load_files", fails_for_the_first)
        with pytest.raises(duckdb.IOException):
            bench.ingest.load_waiting()
    assert bench.rows(pipes[1]) == wanted(1)
    bench.ingest.load_waiting()
    assert bench.rows(pipes[0]) == wanted(1)


def test_object_in_glacier_fails_without_affecting_other_files(bench: Bench) -> None:
    pipe = bench.pipe()
    bench.s3.archived = {"k2"}
    assert bench.ingest.load_files(pipe, files(1, 2, 3)) == (set(), None)
    bench.s3.archived = set()
    assert bench.rows(pipe) == wanted(1, 3)
    assert bench.ingest.runnable(pipe)


def test_missing_file_is_not_retried_and_does_not_delay_other_files(bench: Bench) -> None:
    pipe = bench.pipe()
    bench.s3.gone = {"k2"}
    assert bench.ingest.load_files(pipe, files(1, 2, 3)) == (set(), None)
    bench.s3.gone = set()
    bench.ingest.load_files(pipe, files(1, 2, 3))
    assert bench.rows(pipe) == wanted(1, 3)


def test_files_that_s3_could_not_return_are_loaded_on_the_next_attempt(bench: Bench) -> None:
    pipe = bench.pipe()
    bench.s3.down = {"k3"}
    again, reason = bench.ingest.load_files(pipe, files(*range(600)))
    assert reason
    assert bench.rows(pipe) + wanted(*(int(file.key[1:]) for file in again)) == wanted(*range(600))
    bench.s3.down = set()
    assert bench.ingest.load_files(pipe, sorted(again)) == (set(), None)
    assert bench.rows(pipe) == wanted(*range(600))


def test_1200_files_are_loaded_in_three_transactions(bench: Bench) -> None:
    pipe = bench.pipe()
    bench.ingest.load_files(pipe, files(*range(1200)))
    assert bench.rows(pipe) == wanted(*range(1200))
    commits = bench.catalog.rows(
        """SELECT count(DISTINCT last_load_time), count(*)
           FROM D._fs_information_schema._local_history WHERE pipe_id = ?""",
        [pipe.pipe_id],
    )
    assert commits == [(3, 1200)]


class FakeSns:
    """A fake SNS in which the topics in `gone` do not exist."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.published: list[str] = []
        self.tries = self.reported = 0

    def client(self, service: str, region: str) -> "FakeSns":
        assert (service, region) == ("sns", "eu-west-1")
        return self

    def publish(self, TopicArn: str, Message: str) -> None:  # parameters are named as in boto3
        self.reported += len(json.loads(Message)["messages"])
        self.tries += 1
        if len(Message) > 256 * 1024:
            raise refusal("InvalidParameter", 400)
        if TopicArn in self.gone:
            raise refusal("NotFound", 404)
        self.published.append(TopicArn)


def test_missing_topic_does_not_delay_error_notifications_to_other_topics(bench: Bench) -> None:
    sns, seconds = FakeSns(), [0.0]
    notices = Notices(bench.catalog, sns, lambda: seconds[0])
    topics = [f"arn:aws:sns:eu-west-1:1:{name}" for name in ("gone", "there")]
    sns.gone = {topics[0]}
    for number, topic in enumerate(topics):
        name, now = f"I{number}", datetime.now(UTC)
        bench.catalog.put_integration(
            Integration(name, name, {"AWS_SNS_TOPIC_ARN": topic, "ENABLED": True}, now)
        )
        plan = bench.loader.plan(replace(bench.pipe(), error_integration=name))
        notices.about(plan, [LoadedFile(files(1)[0], failure="broken")])
    notices.send()
    assert sns.published == topics[1:]
    notices.send()
    assert sns.tries == 2  # the missing topic is not tried again immediately
    sns.gone, seconds[0] = set(), 5.0
    notices.send()
    assert sns.published == [topics[1], topics[0]]


def test_error_notifications_about_many_files_are_split_into_messages_that_sns_accepts(bench: Bench) -> None:
    sns = FakeSns()
    notices = Notices(bench.catalog, sns)
    topic = "arn:aws:sns:eu-west-1:1:many"
    options = {"AWS_SNS_TOPIC_ARN": topic, "ENABLED": True}
    bench.catalog.put_integration(Integration("MANY", "MANY", options, datetime.now(UTC)))
    plan = bench.loader.plan(replace(bench.pipe(), error_integration="MANY"))
    notices.about(plan, [LoadedFile(file, failure="é" * 1000) for file in files(*range(500))])
    notices.send()
    assert set(sns.published) == {topic}
    assert sns.reported == 500


@pytest.mark.parametrize("named", [False, True])
def test_file_deleted_during_a_copy_aborts_it_only_if_the_files_option_lists_the_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    at = datetime.now(UTC)
    listed = [{"Key": file.key, "Size": 10, "ETag": '"e"', "LastModified": at} for file in files(1, 2)]
    monkeypatch.setattr(bench.loader, "listed", lambda *_: listed)
    pipe = bench.pipe()
    bench.s3.gone = {"k2"}
    session = bench.fakesnow.connect("D", "S")
    sql = f"{pipe.definition} {"FILES = ('k1', 'k2')" if named else ''}"
    copy = partial(
        Bulk(bench.catalog, bench.loader, bench.loader.authority).copy, Words(sql), session=session
    )
    try:
        if named:
            with pytest.raises(SnowflakeError, match="not found"):
                copy(Scope("D", "S"))
        else:
            copy(Scope("D", "S"))
    finally:
        bench.s3.gone = set()
        session.close()
    assert bench.rows(pipe) == (Counter() if named else wanted(1))


def numbers(bench: Bench, count: int) -> tuple[Plan, LoadedFile]:
    """Return a plan that loads numbers, and a file with `count` rows. The second-to-last row is not a number."""
    pipe = bench.pipe()
    bench.catalog.rows(f"ALTER TABLE {pipe.name.sql} ALTER v TYPE INTEGER")
    definition = pipe.definition.replace("$1", "$1::number")
    rows = [Row(row, row, '"x"' if row == count - 1 else str(row)) for row in range(1, count + 1)]
    return bench.loader.plan(replace(pipe, definition=definition)), LoadedFile(files(1)[0], Content(rows))


def test_invalid_row_among_2000_is_found_with_fewer_than_50_inserts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, file = numbers(bench, 2000)
    inserts = Mock(wraps=loader.insert_rows)
    monkeypatch.setattr(loader, "insert_rows", inserts)
    bench.loader.find_refused_rows(plan, file)
    assert [error.line for error in file.content.errors] == [1999]
    assert [row.number for row in file.content.rows] == [*range(1, 1999), 2000]
    assert inserts.call_count < 50


def test_full_disk_is_not_recorded_as_an_error_of_a_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, file = numbers(bench, 2)
    monkeypatch.setattr(
        loader, "insert_rows", Mock(side_effect=duckdb.IOException("No space left on device"))
    )
    with pytest.raises(duckdb.IOException):
        bench.loader.find_refused_rows(plan, file)
    assert not file.content.errors
