"""Test that `milkrun reconcile` reports each kind of difference between the stores and uses little memory, and that
its repair waits for Snowpipe.
"""

import json
import re
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
import typer
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws
from pydantic import SecretStr
from typer.testing import CliRunner

from aws.errors import PermanentError
from aws.table import dumped
from consumer.item_layout import PairLog, log_item
from consumer.visits import Pair, Rule
from contract.archive_object import ObjectName, lines_object
from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import GEOFENCE_KINDS
from ops import reconcile
from ops.object_sets import KEPT_DAYS, LINES_A_QUERY, MAX_NAMED, Difference, Found, ObjectSets, Reach
from ops.reconcile import Reconciler
from ops.repair_differences import QUEUED, Repairer
from ops.stage_outputs import ROOT, Client
from snowpipe.settings import Connection
from snowpipe.warehouse import Row

HOUR = datetime(2026, 11, 22, 6, tzinfo=UTC)
LATER = HOUR + timedelta(hours=1)
NOW = datetime.now(UTC)


def key(n: int, lines: int = 20, prefix: str = "events", hour: datetime = HOUR) -> str:
    return ObjectName(prefix, hour, sha256(str(n).encode()).hexdigest(), lines).key


@pytest.fixture
def sets() -> Iterator[ObjectSets]:
    with ObjectSets(None, HOUR, LATER) as sets:
        yield sets


def enter(sets: ObjectSets, *, logged: list[str], archived: list[str], loaded: dict[str, int]) -> None:
    sets.logged((each, HOUR) for each in logged)
    sets.archived((each, HOUR) for each in archived)
    sets.loaded(loaded.items())


def test_reconcile_finds_no_difference_if_the_stores_are_equal(sets: ObjectSets) -> None:
    keys = [key(n) for n in range(5)] + [key(9, 3, "rejected")]
    enter(sets, logged=keys, archived=keys, loaded={**dict.fromkeys(keys[:5], 20), keys[5]: 3})
    assert list(sets.differences(LATER)) == []
    [row] = sets.hours(LATER)
    assert (row["accepted"], row["archived"], row["loaded"]) == (100, 100, 100)
    assert (row["rejected"], row["rejects_kept"], row["rejects_loaded"]) == (3, 3, 3)


@pytest.mark.parametrize(
    ("kind", "logged", "archived", "rows"),
    [
        ("not_archived", True, False, None),
        ("not_archived", True, False, 20),
        ("not_in_s3", False, False, 20),
        ("not_loaded", True, True, None),
        ("rows_differ", True, True, 19),
        ("rows_differ", True, True, 40),
        ("not_logged", False, True, 20),
        ("not_loaded", False, True, None),
    ],
)
def test_each_kind_of_difference_between_log_s3_and_snowflake_is_reported_under_its_own_name(
    sets: ObjectSets, kind: str, logged: bool, archived: bool, rows: int | None
) -> None:
    enter(
        sets,
        logged=[key(1)] if logged else [],
        archived=[key(1)] if archived else [],
        loaded={} if rows is None else {key(1): rows},
    )
    assert list(sets.differences(LATER)) == [Difference(kind, key(1), 20, rows or 0)]


def test_reconcile_ignores_objects_that_are_still_in_transit(sets: ObjectSets) -> None:
    enter(sets, logged=[key(1)], archived=[key(1)], loaded={})
    assert list(sets.differences(HOUR - timedelta(seconds=1))) == []
    assert sets.in_flight(HOUR - timedelta(seconds=1)) == 1
    assert sets.in_flight(LATER) == 0


def test_reconcile_ignores_objects_of_other_hours_and_prefixes(sets: ObjectSets) -> None:
    sets.archived([(key(1, hour=LATER), HOUR), ("_SUCCESS", HOUR), ("events/late.json", LATER)])
    assert list(sets.differences(LATER)) == []


FOREIGN = ("events/by-hand.json", "events/dt=2026-11-22/hh=06/array.json", "rejected/dt=2026-11-22/x.ndjson")


@pytest.mark.parametrize("name", FOREIGN)
def test_object_with_a_custom_key_counts_as_not_loaded_until_it_is_loaded_and_is_listed_then(
    sets: ObjectSets, name: str
) -> None:
    sets.archived([(name, HOUR)])
    assert [(d.kind, d.key) for d in sets.differences(LATER)] == [("not_loaded", name)]
    sets.loaded([(name, 3)])
    assert list(sets.differences(LATER)) == []
    assert sets.foreign() == [{"key": name, "rows": 3}]


def test_rows_of_a_deleted_object_with_a_custom_key_are_reported(
    sets: ObjectSets,
) -> None:
    sets.loaded([(FOREIGN[1], 3)])
    assert list(sets.differences(LATER)) == [Difference("not_in_s3", FOREIGN[1], 0, 3)]


def test_key_logged_twice_counts_as_one_object(sets: ObjectSets) -> None:
    enter(sets, logged=[key(1), key(1)], archived=[key(1)], loaded={key(1): 20})
    assert sets.hours(LATER)[0]["accepted"] == 20


def test_geofence_events_are_queried_in_ranges_of_limited_size(sets: ObjectSets) -> None:
    keys = sorted(key(n, 500) for n in range(300))
    enter(sets, logged=keys, archived=keys, loaded=dict.fromkeys(keys, 500))
    spans = list(sets.spans(LATER))
    assert len(spans) == 300 * 500 / LINES_A_QUERY
    assert (spans[0][0], spans[-1][1]) == (keys[0], keys[-1])
    covered = [each for first, last in spans for each in keys if first <= each <= last]
    assert covered == keys
    assert all(sum(500 for each in keys if f <= each <= last) <= LINES_A_QUERY for f, last in spans)


def test_object_with_a_custom_key_does_not_extend_a_query_to_other_hours(sets: ObjectSets) -> None:
    odd = ["events/by-hand.json", "events/z.json"]
    enter(sets, logged=[], archived=[*odd, key(1), key(2)], loaded=dict.fromkeys([*odd, key(1), key(2)], 1))
    first, last = sorted([key(1), key(2)])
    assert list(sets.spans(LATER)) == [(odd[0], odd[0]), (first, last), (odd[1], odd[1])]


def test_object_rewritten_by_forget_is_not_reported_as_a_difference(sets: ObjectSets) -> None:
    old, new, newest, alone, other = (key(n) for n in range(5))
    enter(sets, logged=[old, alone, other], archived=[newest, other], loaded={newest: 20, other: 20})
    assert {d.kind for d in sets.differences(LATER)} == {"not_archived", "not_logged"}
    sets.rewritten({old: new, new: newest, alone: None})
    assert list(sets.differences(LATER)) == []


def test_object_that_forget_wrote_is_reported_if_it_is_not_loaded(sets: ObjectSets) -> None:
    old, new = key(0), key(1)
    enter(sets, logged=[old], archived=[old, new], loaded={old: 20})
    sets.rewritten({old: new})
    assert [(d.kind, d.key) for d in sets.differences(LATER)] == [("not_loaded", new)]
    lost = key(2)
    enter(sets, logged=[lost], archived=[], loaded={})
    sets.rewritten({old: new})
    assert ("not_archived", lost) in [(d.kind, d.key) for d in sets.differences(LATER)]


def test_expired_objects_and_log_lines_are_not_reported_as_lost(sets: ObjectSets) -> None:
    archived, expired, reject = key(1), key(2), key(3, 4, "rejected")
    enter(sets, logged=[], archived=[archived], loaded={archived: 20, expired: 20, reject: 4})
    assert {d.kind for d in sets.differences(LATER)} == {"not_logged", "not_in_s3"}

    def kinds(after: timedelta, log: int | None) -> set[tuple[str, str]]:
        reach = Reach.at(HOUR + after, log)
        return {(d.kind, d.key) for d in sets.differences(LATER, reach)}

    everything = {("not_logged", archived), ("not_in_s3", expired), ("not_in_s3", reject)}
    assert kinds(timedelta(days=30), 30) == everything  # the log still contains all of that hour
    assert kinds(timedelta(days=30, hours=1), 30) == everything - {("not_logged", archived)}
    assert kinds(timedelta(days=90), None) == everything
    assert kinds(timedelta(days=90, hours=1), None) == everything - {("not_in_s3", reject)}
    assert kinds(timedelta(days=400, hours=1), 400) == set()
    # Objects that still exist are compared, whatever their age.
    sets.loaded([(archived, 19)])
    assert kinds(timedelta(days=380), 30) == {("rows_differ", archived), ("not_in_s3", expired)}


def test_retention_constants_equal_those_in_the_template() -> None:
    text = (ROOT / "serverless" / "storage.yml").read_text()
    found = re.findall(r"Id: (events|rejected), Status: Enabled, Prefix: \w+/, ExpirationInDays: (\d+)", text)
    assert {prefix: int(days) for prefix, days in found} == KEPT_DAYS


def test_differences_above_the_limit_are_counted_but_not_listed() -> None:
    found = Found()
    for n in range(MAX_NAMED + 5):
        found.add(Difference("not_loaded", key(n)))
    assert (len(found.differences), found.more, found.equal) == (MAX_NAMED, 5, False)


@pytest.mark.slow
def test_comparing_a_million_events_needs_little_memory(tmp_path: Path) -> None:
    # Measure in a separate process, because the servers of other tests allocate memory in this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        peak = alone.submit(peak_of_a_million, tmp_path / "objects.sqlite").result()
    assert peak < 128 * 1024  # in memory, the keys alone would need more


def peak_of_a_million(path: Path) -> int:
    with ObjectSets(path, HOUR, LATER) as sets:
        tracemalloc.start()
        sets.logged((key(n, 500), HOUR) for n in range(2_000))
        sets.archived((key(n, 500), HOUR) for n in range(2_000))
        sets.loaded((key(n, 500), 500) for n in range(2_000) if n != 31)
        missing = list(sets.differences(LATER))
        peak = tracemalloc.get_traced_memory()[1]
        assert [d.key for d in missing] == [key(31, 500)]
        assert sets.hours(LATER)[0]["accepted"] == 1_000_000
    return peak


class Stage:
    """A stage on moto, with the log of its ingest function and a fake warehouse."""

    bucket, visits_table, database = "archive", "visits", "MILKRUN"

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.invalid: list[Row] = []
        boto3.client("s3").create_bucket(Bucket=self.bucket)
        self._logs = {"logGroupName": "/aws/lambda/milkrun-dev-ingest", "logStreamName": "s"}
        boto3.client("logs").create_log_group(logGroupName=self._logs["logGroupName"])
        boto3.client("logs").create_log_stream(**self._logs)
        boto3.client("dynamodb").create_table(
            TableName=self.visits_table,
            KeySchema=[{"AttributeName": n, "KeyType": k} for n, k in (("pk", "HASH"), ("sk", "RANGE"))],
            AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")],
            BillingMode="PAY_PER_REQUEST",
        )

    def aws(self, service: str) -> Client:
        return boto3.client(service)

    def access(self) -> SimpleNamespace:
        """Return boto3 clients instead of Milkrun's own clients, because mock_aws intercepts only boto3's requests."""
        return SimpleNamespace(client=self.aws)

    def archive(self, prefix: str, *lines: bytes) -> str:
        made = lines_object(prefix, lines, NOW)
        boto3.client("s3").put_object(Bucket=self.bucket, Key=made.key, Body=made.body)
        return made.key

    def log(self, **line: object) -> None:
        event = {"timestamp": int(NOW.timestamp() * 1000), "message": json.dumps(line)}
        boto3.client("logs").put_log_events(**self._logs, logEvents=[event])

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        if "GROUP BY 1, 3" in sql:
            first, last = parameters[:2]
            return [row for row in self.rows if first <= row["file_name"] <= last]
        if "INVALID_ROWS" in sql:
            return self.invalid
        if "COUNT(*) AS n" in sql and "GROUP BY" not in sql:
            return [{"n": sum(row["file_name"] == parameters[0] for row in self.rows)}]
        table = re.search(r"RAW\.(\w+)", sql)
        counts = Counter(row["file_name"] for row in self.rows)
        return [
            {"file_name": key, "n": n}
            for key, n in counts.items()
            if table and key.startswith(table[1]) and str(parameters[0]) <= key < str(parameters[1])
        ]

    def load(self, key: str, **columns: object) -> None:
        at = {"line": 1, "event_id": "e", "created_at": NOW.isoformat(), "device_id": "d"}
        self.rows.append({"file_name": key, **at, "tag": "farm", "external_id": "1", **columns})


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr("ops.reachable_stores.geofence_kinds", lambda *_: GEOFENCE_KINDS)
    with mock_aws():
        yield Stage()


def look(stage: Stage) -> Found:
    now = datetime.now(UTC)  # moto dates objects with the current time, which may be in the hour after NOW's
    return Reconciler(stage, "dev", stage).look(NOW, now, now + timedelta(hours=1))


def test_reconcile_finds_no_difference_after_a_rejected_or_failed_request(
    stage: Stage,
) -> None:
    key = stage.archive("rejected", b"{}")
    stage.load(key)
    stage.log(event="events_ingested", status=400, object_key=None, rejected_key=key)
    lost = key.replace(".1.", ".7.")
    stage.log(event="events_ingested", status=503, object_key=lost, rejected_key=None)
    assert look(stage).differences == []


def test_object_repaired_by_an_operator_is_not_reported_as_not_logged(stage: Stage) -> None:
    key = stage.archive("events", b"{}")
    stage.load(key)
    assert [d.kind for d in look(stage).differences if d.kind != "not_consumed"] == ["not_logged"]
    made = lines_object("events", [b"{}"], NOW)
    boto3.client("s3").put_object(
        Bucket=stage.bucket, Key=key, Body=made.body, Metadata={"milkrun-repaired": "events/torn.ndjson"}
    )
    assert [d.kind for d in look(stage).differences if d.kind != "not_consumed"] == []


def test_reconcile_fails_if_s3_does_not_return_the_metadata_of_an_object(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metadata tells whether an operator repaired the object. Without it, reporting `not_logged` might be wrong."""
    call = BaseClient._make_api_call

    def slow_down(client: BaseClient, name: str, parameters: dict[str, object]) -> object:
        if name == "HeadObject":
            raise ClientError({"Error": {"Code": "503", "Message": "Slow Down"}}, name)
        return call(client, name, parameters)

    stage.load(stage.archive("events", b"{}"))
    monkeypatch.setattr(BaseClient, "_make_api_call", slow_down)
    with pytest.raises(ClientError, match="Slow Down"):
        look(stage)


def test_objects_outside_the_hour_folders_are_compared_except_for_empty_ones(stage: Stage) -> None:
    s3 = boto3.client("s3")
    for name, body in (
        ("events/", b""),
        (f"events/dt={NOW:%Y-%m-%d}/hh={NOW:%H}/", b""),
        (f"events/dt={NOW:%Y-%m-%d}/hh={NOW:%H}/empty.ndjson", b""),
        ("events/by-hand.json", b"[]"),
        (f"events/dt={NOW:%Y-%m-%d}/deep/er/backup.json", b"{}"),
        ("rejected/copy/of.json", b"{}"),
    ):
        s3.put_object(Bucket=stage.bucket, Key=name, Body=body)
    stage.load("events/by-hand.json")
    found = look(stage)
    assert [(d.kind, d.key) for d in found.differences if d.kind == "not_loaded"] == [
        ("not_loaded", f"events/dt={NOW:%Y-%m-%d}/deep/er/backup.json"),
        ("not_loaded", "rejected/copy/of.json"),
    ]
    assert {"key": "events/by-hand.json", "rows": 1} in found.foreign


def test_invalid_rows_are_listed_but_do_not_count_as_a_difference(stage: Stage) -> None:
    stage.invalid = [{"file_name": "events/by-hand.json", "file_row_number": 1, "code": "not_an_object"}]
    found = look(stage)
    assert found.invalid_rows == [{"file": "events/by-hand.json", "line": 1, "reason": "not_an_object"}]
    assert found.equal


def test_log_and_s3_are_compared_even_if_snowflake_does_not_answer(stage: Stage) -> None:
    kept, lost = (
        stage.archive("events", b"{}"),
        key(7, 3, hour=NOW.replace(minute=0, second=0, microsecond=0)),
    )
    for name in (kept, lost):
        stage.log(event="events_ingested", status=202, object_key=name, rejected_key=None)
    later = NOW + timedelta(hours=1)
    found = Reconciler(stage, "dev", None, {"Snowflake": "no answer"}).look(NOW, NOW, later)
    assert [(d.kind, d.key) for d in found.differences] == [("not_archived", lost)]
    assert found.equal is False
    assert {hour["loaded"] for hour in found.hours} == {None}
    boto3.client("s3").put_object(Bucket=stage.bucket, Key=lost, Body=b"")
    found = Reconciler(stage, "dev", None, {"Snowflake": "no answer"}).look(NOW, NOW, later)
    assert (found.differences, found.equal) == ([], None)


def test_geofence_events_too_old_for_the_visits_table_are_not_reported_as_missing(stage: Stage) -> None:
    key = stage.archive("events", b"{}", b"{}", b"{}", b"{}", b"{}")
    stage.log(event="events_ingested", status=202, object_key=key, rejected_key=None)
    small = NOW.isoformat().replace("T", "t").replace("+00:00", "z")
    stage.load(key, line=1, event_id="known", created_at=small)
    stage.load(key, line=2, event_id="lost")
    stage.load(key, line=3, event_id="old", created_at=(NOW - timedelta(days=81)).isoformat())
    stage.load(key, line=4, event_id="no time", created_at="monday")
    stage.load(key, line=5, event_id="no fence", tag=None)
    pair = Pair("d", Fence("farm", "1"))
    known = GeofenceEvent("known", "user.entered_geofence", "enter", *pair, NOW)
    item = dumped(log_item(pair, PairLog(1, (known,)), Rule()))
    boto3.client("dynamodb").put_item(TableName=stage.visits_table, Item=item)
    found = look(stage)
    assert (found.crossings.archived, found.crossings.consumed, found.crossings.too_old) == (5, 1, 1)
    assert {(d.kind, d.events) for d in found.differences} == {
        ("not_consumed", (event_id,)) for event_id in ("lost", "no time", "no fence")
    }


def test_geofence_events_of_objects_in_transit_are_not_compared(stage: Stage) -> None:
    names = sorted(key(n, 1, hour=NOW.replace(minute=0, second=0, microsecond=0)) for n in range(3))
    for name in names:
        stage.load(name)
    boto3.client("s3").put_object(Bucket=stage.bucket, Key=names[1], Body=b"")
    found = Reconciler(stage, "dev", stage).look(NOW, NOW, NOW - timedelta(minutes=1))
    assert found.in_flight == 1
    assert found.crossings.archived == 2


def test_lost_event_is_reported_unless_it_has_expired_or_was_too_old_for_the_consumer(stage: Stage) -> None:
    """The event `lost` is too old to be replayed, but if it had been consumed, the table would still contain it."""

    def crossings(came: datetime, **ages: timedelta) -> tuple[int, list[tuple[str, ...]]]:
        file_name = key(1, hour=came.replace(minute=0, second=0, microsecond=0))
        stage.rows = []
        for line, (event_id, age) in enumerate(ages.items(), 1):
            stage.load(file_name, line=line, event_id=event_id, created_at=(NOW - age).isoformat())
        found = Found()
        Reconciler(stage, "dev", stage)._crossings(file_name, file_name, found)
        return found.crossings.too_old, [difference.events for difference in found.differences]

    days_ago = NOW - timedelta(days=85)
    ages = {"lost": timedelta(days=85), "kept_no_longer": timedelta(days=90, hours=1)}
    assert crossings(days_ago, **ages) == (1, [("lost",)])
    late = {"in_time": timedelta(days=79), "left_out": timedelta(days=80, hours=2)}
    assert crossings(NOW, **late) == (1, [("in_time",)])


def test_text_output_says_how_many_differences_it_omits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("object_sets", "reconcile"):
        monkeypatch.setattr(f"ops.{module}.MAX_NAMED", 40)
    found = Found()
    for n in range(47):
        found.add(Difference("not_loaded" if n < 30 else "rows_differ", key(n), events=("e",) * 6))
    found.invalid_rows = [{"file": "events/f", "line": n, "reason": "x"} for n in range(40)]
    reconcile._show(found, [], as_json=False)
    said, noted = capsys.readouterr()
    assert "not_loaded: in S3, but without a row in RAW (30)" in said
    assert "… and 10 more (use --json)" in said
    assert "7 more differences neither listed nor repaired" in said
    assert "e e e e e …" in said
    assert noted == "only the first 40 invalid rows are listed\n"


class Queue:
    """A busy stage with one object that is not loaded, and a simulated clock. The object is loaded a minute after
    REFRESH has queued it.

    Threads of other tests may still be polling. They get the real clock, so that their pauses do not count.
    """

    def __init__(self) -> None:
        self.seconds, self.did = 0.0, QUEUED
        self.archive, self.kinds = None, GEOFENCE_KINDS
        self.thread = threading.get_ident()

    def monotonic(self) -> float:
        return self.seconds if threading.get_ident() == self.thread else time.monotonic()

    def sleep(self, seconds: float) -> None:
        if threading.get_ident() != self.thread:
            time.sleep(seconds)
            return
        self.seconds += seconds
        assert self.seconds < 600, "the repair had not ended after 600 s"

    def look(self, *_: object) -> Found:
        missing = [Difference("not_loaded", key(1))]
        is_loaded = self.did == QUEUED and self.seconds > 60
        return Found(differences=[] if is_loaded else missing, in_flight=int(self.seconds))

    def repair(self, _: object) -> list[dict[str, object]]:
        return [{"key": key(1), "did": self.did}]


@pytest.mark.parametrize(("did", "code", "seconds"), [(QUEUED, 0, 63), ("nothing: refused", 1, 8)])
def test_repair_waits_for_snowpipe_to_load_the_files_that_refresh_has_queued(
    did: str, code: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue()
    queue.did = did
    for name, value in {
        "unreachable": lambda *_: {},
        "with_or_without_warehouse": lambda _outputs, _unasked, ask: ask(queue),
        "note_result": lambda *_: None,
        "Reconciler": lambda *_: queue,
        "Repairer": lambda *_: queue,
    }.items():
        monkeypatch.setattr(reconcile, name, value)
    monkeypatch.setattr("ops.terminal.outputs_of", lambda *_: None)
    monkeypatch.setattr("ops.polling.time", queue)
    app = typer.Typer()
    app.command()(reconcile.command)
    assert CliRunner().invoke(app, ["--repair", "--json"]).exit_code == code
    assert queue.seconds == pytest.approx(seconds, abs=3)


def test_repair_continues_with_the_next_difference_after_aws_refuses_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> int:
        raise PermanentError("kinesis:PutRecords is not allowed")

    outputs = SimpleNamespace(
        region="us-east-1",
        aws_endpoint_url=None,
        bucket="b",
        stream="s",
        snowflake=Connection(account="a", user="u", password=SecretStr("p")),
        access=lambda: SimpleNamespace(client=lambda _: None),
    )
    monkeypatch.setattr("ops.repair_differences.lines_again", refused)
    repairer = Repairer(outputs, None, None, GEOFENCE_KINDS)  # type: ignore[arg-type]
    [published, other] = repairer.repair(
        [Difference("not_consumed", key(1), line=1), Difference("not_logged", key(2))]
    )
    assert published == {"key": "1 geofence event", "did": "nothing: kinesis:PutRecords is not allowed"}
    assert other["key"] == key(2)
