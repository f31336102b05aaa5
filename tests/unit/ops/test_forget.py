"""Test with moto and a local Snowflake that `milkrun forget` deletes all data of a person and keeps the data of
others.
"""

import base64
import gzip
import hashlib
import json
import subprocess
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from aws.table import dumped
from consumer import keys, previous_layout
from consumer.item_layout import Chunk, PairLog, chunk_item, log_item
from consumer.visits import Pair, Rule, pair_of, visits_of
from contract.event_rules import geofence_event
from contract.events import Fence, Reason
from contract.geofence_event_types import GEOFENCE_KINDS
from contract.rejected_lines import quarantine_line
from glue.archive import Bucket, Hours
from glue.compact import compact_with_duckdb, stale
from glue.person import Subject
from local_snowflake.testing import Aws, LocalProcess
from ops import forget, redrive
from ops.visits_items import events_in
from snowpipe.warehouse import Row
from tests.rejects import reject_line, unreadable_line
from tests.service_models import validated
from tests.unit.ops.stage import HOUR, Stage

WHY = [Reason("missing_id", "_id", "`_id` is missing.")]
FARM = {"tag": "farm", "externalId": "farm-1"}
HOURS = Hours(HOUR, HOUR + timedelta(hours=1))


@pytest.fixture(autouse=True)
def _only_requests_valid_on_aws() -> Iterator[None]:
    with validated():
        yield


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with Aws.running() as aws:
        yield aws


@pytest.fixture(scope="module")
def local(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalProcess]:
    process = LocalProcess(tmp_path_factory.mktemp("local") / "snowflake", aws.endpoint).start()
    yield process
    assert process.stop() == 0


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Replace the dbt build with a fake; return a list to which it adds the arguments of each call."""
    runs: list[tuple[str, ...]] = []
    monkeypatch.setattr(forget, "build_marts", lambda _environment, *said: runs.append(said) or True)
    return runs


@pytest.fixture
def stage(
    aws: Aws, local: LocalProcess, monkeypatch: pytest.MonkeyPatch, built: list[tuple[str, ...]]
) -> Stage:
    assert built == []
    return made(aws, local, monkeypatch)


def made(aws: Aws, local: LocalProcess, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(aws, local)
    monkeypatch.setattr("ops.terminal.outputs_of", lambda _context, _stage: stage.outputs)
    monkeypatch.setattr(forget.read_stores, "geofence_kinds", lambda _outputs, _stage: GEOFENCE_KINDS)
    monkeypatch.setattr(forget.read_stores, "rule", lambda _outputs, _stage: Rule())
    monkeypatch.setattr(redrive, "LONG_POLL_SECONDS", 0)  # with moto, a short poll finds every message
    return stage


def run(*arguments: str, answer: str | None = None) -> Result:
    app = typer.Typer()
    app.command()(forget.command)
    return CliRunner().invoke(app, list(arguments), input=answer, obj={})


def report_of(*arguments: str, code: int = 0) -> dict[str, object]:
    done = run(*arguments, "--yes", "--json")
    assert done.exit_code == code, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def line(event_id: str, *, user: dict[str, str] | None, minute: float = 0, **more: object) -> bytes:
    event = {
        "_id": event_id,
        "type": "user.entered_geofence",
        "createdAt": (HOUR + timedelta(minutes=minute)).isoformat(),
        "geofence": FARM,
        **({} if user is None else {"user": user}),
        **more,
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def entered(event_id: str, user: str, device: str) -> bytes:
    return line(event_id, user={"userId": user, "deviceId": device})


ANN, BOB = entered("a1", "ann", "phone-1"), entered("b1", "bob", "phone-2")


# --- all stores -----------------------------------------------------------------------------------------------


class Person:
    """A person with every kind of data that the stores may contain.

    The data is stored under a user id, an account id, or only a device id.
    """

    def __init__(self, name: str, user: str, number: int) -> None:
        self.name, self.user, self.number = name, user, number
        self.device, self.account = f"phone #{number} of {name}", f"5f{number:06d}{name}"

    @property
    def ids(self) -> list[str]:
        return [self.user, self.device, self.account]

    def id(self, text: str) -> str:
        return f"{self.name}-{text}"

    def events(self) -> list[bytes]:
        both = {"userId": self.user, "_id": self.account, "deviceId": self.device}
        as_written = unicodedata.normalize("NFD", self.user)
        found = [
            line(self.id("both"), user=both),
            line(self.id("account"), user={"_id": self.account, "deviceId": self.device}, minute=1),
            line(self.id("device"), user={"deviceId": self.device}, minute=2),
            line(self.id("top"), user=None, deviceId=self.device, userId=self.user, minute=3),
            line(self.id("snake"), user={"user_id": as_written}, deviceId=self.device, minute=4),
            line(self.id("meta"), user={"deviceId": self.device}, metadata={"driver": self.user}, minute=5),
        ]
        if self.user.isdigit():
            found.append(line(self.id("number"), user=None, type="t", deviceId="x", userId=int(self.user)))
        return found

    def on_shared(self) -> list[bytes]:
        """Return enough events of a shared device for its (device, fence) pair to have a log item and chunks."""
        kinds = ("user.entered_geofence", "user.exited_geofence")
        user = {"userId": self.user, "deviceId": "shared"}
        return [
            line(self.id(f"s{n}"), user=user, type=kinds[n % 2], minute=10 * n + 5 * self.number)
            for n in range(40)
        ]

    def rejects(self) -> list[bytes]:
        bodies = [
            f'{{"user":{{"userId":"{self.user}"}},oops'.encode(),
            gzip.compress(f'[{{"deviceId":"{self.device}"}},'.encode(), mtime=0),
            gzip.compress(json.dumps({"userId": self.user}).encode() * 3, mtime=0)[:-10],
            f"userId={self.user}".encode("utf-16"),
        ]
        events = [{"userId": [self.user]}, {"user": {"deviceId": self.device}}, [self.user], self.account]
        return [
            *(
                reject_line(WHY, json.dumps(event).encode(), index=n, event_id=None)
                for n, event in enumerate(events)
            ),
            *(unreadable_line(WHY, body, content_type="x", content_encoding=None) for body in bodies),
        ]

    def quarantined(self) -> list[bytes]:
        origin = {"shard": self.name}
        return [
            quarantine_line(WHY, self.events()[0], origin),
            quarantine_line(WHY, b"\xff" + self.device.encode() + b"\xff", origin),
        ]

    def results(self) -> list[dict[str, object]]:
        visit = {"device_id": self.device, "entered_event_id": self.id("both"), "exited_event_id": None}
        return [visit, visit | {"device_id": "shared", "entered_event_id": self.id("s0")}]

    def differences(self) -> bytes:
        """Return lines as glue.compare writes them. The last is a visit that ended with an event of this person."""
        lines = [{**visit, "fields": {}} for visit in self.results()]
        fields = {"exited_event_id": [None, self.id("s1")]}
        lines.append({"device_id": "shared", "entered_event_id": "CHO-s0", "fields": fields})
        return b"".join(json.dumps({"what": "different", **each}).encode() + b"\n" for each in lines)

    def overdue(self) -> list[dict[str, object]]:
        at = HOUR + timedelta(minutes=5 * self.number)
        return [{"device_id": self.device, "entered_at": HOUR}, {"device_id": "shared", "entered_at": at}]

    def previous_layout(self) -> list[dict[str, object]]:
        pk = keys.pair_key(Pair(self.device, Fence("plant", "p1")))
        at = keys.timestamp(HOUR)
        return [
            dumped({"pk": pk, "sk": f"e#{at}#0#{self.id('old')}###", "expires_at": 4_000_000_000}),
            dumped({"pk": pk, "sk": f"v#{at}", "entered_event_id": self.id("old"), "version": 1}),
        ]


def batch(*events: bytes) -> bytes:
    records = [{"kinesis": {"partitionKey": "k", "data": base64.b64encode(e).decode()}} for e in events]
    return json.dumps({"payload": json.dumps({"Records": records})}).encode()


def plant(stage: Stage, people: list[Person], export: Path) -> None:
    """Store the data of all `people` in every store, mostly in shared objects."""
    mixed = [event for some in zip(*(p.events()[:6] for p in people), strict=True) for event in some]
    mixed += [event for p in people for event in p.events()[6:]]
    key = stage.put(*mixed)
    stage.put(*(event for some in zip(*(p.on_shared() for p in people), strict=True) for event in some))
    for p in people:
        stage.put(line(p.id("own"), user={"userId": p.user}, type="t"))
    stage.put(*(each for p in people for each in p.rejects()), prefix="rejected")
    stage.put(*(each for p in people for each in p.quarantined()), prefix="set-aside")
    stage.bucket.write("aws/lambda/m/1.json", batch(*(p.events()[2] for p in people)))
    stage.put_parquet("rebuilt/r/visits/1.parquet", [row for p in people for row in p.results()])
    stage.bucket.write("rebuilt/r/differences.ndjson", b"".join(p.differences() for p in people))
    stage.put_parquet("streamed/live/overdue_exits/1.parquet", [row for p in people for row in p.overdue()])
    stage.bucket.write("streamed/live/checkpoint/state/1.delta", b"\x00")
    # A purged reject remains in the bucket as a noncurrent version for 30 days.
    purged = stage.put(*(p.rejects()[0] for p in people[:1]), prefix="rejected")
    stage.loaded()
    stage.s3.delete_object(Bucket=stage.bucket.name, Key=purged)
    list(compact_with_duckdb(stage.bucket, stale(stage.bucket, HOURS)))
    for p in people:
        stage.consume(*(e for e in p.events() if b'"type":"t"' not in e), *p.on_shared())
        stage.put_items(p.previous_layout())
    numbers = list(range(1, len(mixed) + 1))
    stage.claim(stage.outputs.redrive_queue_url, key, numbers)
    stage.claim(stage.outputs.dead_letter_queue_url, key, numbers[:1])
    stage.export_to(export)
    # RAW keeps rows longer than S3 keeps objects, so delete a loaded object of events and one of rejects.
    old = stage.put(*(line(p.id("expired"), user={"_id": p.account}, type="t") for p in people))
    rejected = stage.put(*(p.rejects()[5] for p in people), prefix="rejected")
    stage.loaded()
    stage.bucket.delete([old, rejected])


def of(person: Person, stage: Stage, export: Path) -> dict[str, Sequence[object]]:
    """Return a person's data by store."""
    mine = [person.name.encode(), *(each.encode() for each in person.ids)]

    def is_mine(text: str | bytes) -> bool:
        text = text.encode() if isinstance(text, str) else text
        decoded = [text, *(base64.b64decode(v) for v in _base64(text))]
        inflated = [gzip_text(each) for each in decoded]
        return any(each in one for each in mine for one in (*decoded, *inflated)) or any(
            each.decode().encode("utf-16-le") in one for each in mine for one in decoded
        )

    found: dict[str, Sequence[object]] = {
        prefix: sorted(filter(is_mine, stage.lines(f"{prefix}/")))
        for prefix in ("events", "rejected", "set-aside")
    }
    found |= {t: sorted(filter(is_mine, stage.raw_lines(t))) for t in ("EVENTS", "REJECTED")}
    found["items"] = sorted(
        json.dumps(i) for i in stage.items() if str(i["pk"]).startswith(keys.quoted(person.device))
    )
    found["sqlite"] = sorted(filter(is_mine, stage.exported(export)))
    for key in ("rebuilt/r/visits/1.parquet", "streamed/live/overdue_exits/1.parquet"):
        found[key] = [
            row for row in stage.parquet_rows(key) if row in person.results() + utc(person.overdue())
        ]
    compared = stage.bucket.read("rebuilt/r/differences.ndjson").splitlines()
    found["differences"] = [each for each in compared if each in person.differences().splitlines()]
    files = [key for key in stage.keys("compacted/dt=") if key.endswith(".parquet")]
    payloads = [row["payload"] for key in files for row in stage.parquet_rows(key)]
    found["compacted"] = sorted(filter(is_mine, payloads))
    return found


def utc(rows: list[Row]) -> list[Row]:
    return [row | {"entered_at": row["entered_at"].astimezone(UTC)} for row in rows]


def _base64(text: bytes) -> Iterator[str]:
    try:
        value = json.loads(text)
    except ValueError:
        return
    if isinstance(value, dict):
        yield from (v for name in ("body_base64", "record_base64") if isinstance(v := value.get(name), str))


def gzip_text(body: bytes) -> bytes:
    import zlib

    return zlib.decompressobj(31).decompress(body) if body.startswith(b"\x1f\x8b") else b""


@pytest.mark.parametrize(
    ("user", "by_device"),
    [
        ('🚚 o\'Öz "7f3c21"; --', False),
        pytest.param("7788990011", False, marks=pytest.mark.slow),
        pytest.param("🚚 Jürgen Öz-7f3c21", True, marks=pytest.mark.slow),
    ],
    ids=["quotes-not-ascii", "digits", "not-ascii-and-device"],
)
def test_all_data_of_one_person_is_deleted_and_all_data_of_another_is_kept(
    stage: Stage, built: list[tuple[str, ...]], tmp_path: Path, user: str, by_device: bool
) -> None:
    ann, bea = Person("ANN", user, 1), Person("BEA", "bea-0a1b2c", 2)
    export = tmp_path / "events.db"
    plant(stage, [ann, bea], export)
    kept, last = of(bea, stage, export), bea.on_shared()
    assert all(kept.values())
    assert all(of(ann, stage, export).values())

    spelled = unicodedata.normalize("NFD", user)
    also = ("--device", ann.device) if by_device else ()
    report = report_of("--user", spelled, *also, "--sqlite", str(export), "--timeout", "30")
    assert report["devices"] == sorted({ann.device, *(["x"] if user.isdigit() else [])})
    assert report["shared_devices"] == {"shared": 1}
    assert built == [("--full-refresh",)]

    for place, text in stage.everything():
        for each in (*ann.ids, ann.name):
            for form in ("NFC", "NFD"):
                assert unicodedata.normalize(form, each).encode() not in text, (place, text[:300])
    with_bytes = export.read_bytes()
    assert not any(each.encode() in with_bytes for each in (*ann.ids, ann.name))
    assert of(bea, stage, export) == kept
    # The visits of a shared device are computed again from the other person's events.
    [history] = visits_of(map(geofence_event, last)).values()
    assert tuple(stage.visits("shared")) == history.visits
    [claim] = stage.claims(stage.outputs.redrive_queue_url)
    assert {json.loads(e)["_id"][:3] for e in _lines_of(stage, claim)} == {"BEA"}
    assert len(claim["lines"]) == len(bea.events())
    assert stage.claims(stage.outputs.dead_letter_queue_url) == []
    stores = {each["store"]: each["until"] for each in report["remaining"]}
    assert "S3 streamed/live/checkpoint/" in stores
    assert datetime.fromisoformat(stores["Kinesis stream"]) > datetime.now(UTC)


def _lines_of(stage: Stage, claim: dict[str, object]) -> list[bytes]:
    lines = gzip.decompress(stage.bucket.read(claim["key"])).splitlines()
    return [lines[n - 1] for n in claim["lines"]]


# --- single cases ---------------------------------------------------------------------------------------------


def log_and_chunk() -> Iterator[dict[str, object]]:
    """Return a log whose last change refers to a chunk that has not been written yet, and this chunk."""
    ann = geofence_event(ANN)
    chunk = Chunk(keys.chunk_key(pair_of(ann), 1, 0), None, (ann,))
    log = PairLog(1, (), None, True, (chunk,))
    return map(dumped, (log_item(pair_of(ann), log, Rule()), chunk_item(pair_of(ann), chunk, log)))


def test_forget_waits_for_chunks_that_the_consumer_is_writing(stage: Stage) -> None:
    """Two people use the device, so its visits are computed again from the log and all chunks."""
    stage.put(ANN, entered("b2", "bob", "phone-1"))
    log, chunk = log_and_chunk()
    stage.put_items([log])
    stage.loaded()
    consumer = threading.Timer(0.5, stage.put_items, args=([chunk],))
    consumer.start()
    report_of("--user", "ann")
    consumer.join()
    assert stage.items() == []


@pytest.mark.slow
def test_forget_does_not_wait_forever_for_an_interrupted_change(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.forget_visits.CHANGE_SECONDS", 0.3)
    stage.put(ANN, entered("b2", "bob", "phone-1"))
    log, _ = log_and_chunk()
    stage.put_items([log])
    report_of("--user", "ann")
    assert stage.items() == []


@pytest.mark.slow
def test_forget_keeps_other_peoples_events_in_a_pair_of_the_previous_layout(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 90 days after an upgrade, the visits table may contain pairs in the previous layout."""
    now = HOUR.timestamp()  # no item has expired at this time
    monkeypatch.setattr(previous_layout, "time", SimpleNamespace(time=lambda: now))
    cases = json.loads((Path(__file__).parents[1] / "consumer/previous_layout.json").read_text())
    case = next(each for each in cases if each["name"] == "random 0")
    pair = keys.pair_of_key(case["items"][0]["pk"], "head")
    stage.put_items(map(dumped, case["items"]))
    geofence = {"tag": pair.fence.tag, "externalId": pair.fence.external_id}
    user = {"userId": "ann", "deviceId": pair.device_id}
    stage.put(
        *(line(event_id, user=user, geofence=geofence) for event_id in ("e11", "e7")),
        entered("b2", "bob", pair.device_id),
    )
    stage.loaded()
    report_of("--user", "ann")
    [(_, events)] = events_in(stage.items())
    known = {each["event_id"] for each in case["events"]}
    assert {event.event_id for event in events} == known - {"e11", "e7"}
    assert not [item for item in stage.items() if "#" in str(item["pk"])]


def test_forget_deletes_nothing_until_the_new_objects_are_loaded(
    stage: Stage, built: list[tuple[str, ...]]
) -> None:
    mixed, own = stage.put(ANN, BOB), stage.put(entered("a2", "ann", "phone-1"))
    stage.loaded()
    stage.consume(ANN, BOB, entered("a2", "ann", "phone-1"))
    stage.raw.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    report = report_of("--user", "ann", "--timeout", "0", code=1)
    [rest] = report["not_loaded_yet"]
    assert "Run the command again" in report["next"][0]
    assert set(stage.keys("events/")) == {mixed, own, rest}
    assert stage.raw.count() == 3
    assert len(stage.items()) == 2
    assert built == []

    stage.raw.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = FALSE")
    assert report_of("--user", "ann")["objects_deleted"] == 2
    assert stage.lines("events/") == [BOB]
    again = report_of("--user", "ann")
    assert (again["objects"], again["raw_rows_deleted"]) == (0, 0)
    assert built == [("--full-refresh",)]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("forget_results", marks=pytest.mark.slow),
        "delete_old",
        pytest.param("compact_again", marks=pytest.mark.slow),
    ],
)
def test_interrupted_forget_is_continued_by_the_same_command(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, built: list[tuple[str, ...]], step: str
) -> None:
    """The stored plan must suffice, because the interrupted run may have deleted the events that link the person to
    the device.
    """
    events = (ANN, line("d1", user={"deviceId": "phone-1"}), BOB)
    for event in events:
        stage.put(event)
    stage.loaded()
    stage.consume(*events)
    list(compact_with_duckdb(stage.bucket, stale(stage.bucket, HOURS)))

    def interrupted(_bucket: object, pairs: object, *_: object) -> None:
        if step != "forget_results":
            stage.bucket.delete([pairs[0]["old"]])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forget.forget_copies if step == "forget_results" else forget.archive, step, interrupted)
        run("--user", "ann", "--yes", "--timeout", "0")
    assert built == []
    report_of("--user", "ann", "--timeout", "0")
    assert built == [("--full-refresh",)]
    assert stage.lines("events/") == [BOB]
    files = [key for key in stage.keys("compacted/dt=") if key.endswith(".parquet")]
    assert [row["payload"].encode() for key in files for row in stage.parquet_rows(key)] == [BOB]
    assert [item["pk"] for item in stage.items()] == ["phone-2"]
    assert [json.loads(each)["_id"] for each in stage.raw_lines("EVENTS")] == ["b1"]


def test_forget_exits_with_code_1_as_long_as_the_marts_are_not_rebuilt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.put(ANN)
    stage.loaded()
    stage.consume(ANN)
    monkeypatch.setattr(forget, "build_marts", lambda *_: False)
    for more in ([], ["--no-marts"], []):
        assert "dbt build --full-refresh" in report_of("--user", "ann", *more, code=1)["next"][0]


def test_table_that_dbt_does_not_build_is_reported_if_it_contains_the_persons_id(stage: Stage) -> None:
    stage.put(ANN)
    stage.loaded()
    stage.consume(ANN)
    stage.raw.run("CREATE SCHEMA MARTS")
    stage.raw.run("CREATE TABLE MARTS.\"Old visits\" AS SELECT 'ann' AS user_id")
    report = report_of("--user", "ann", code=1)
    [left] = report["tables_left"]
    assert left.endswith('"MARTS"."Old visits"')


@pytest.mark.parametrize(
    "shared",
    [
        "x'; rm -rf ~ #\nline 2\x1b[2K\u202e\\n\U000e0041",
        pytest.param("x'; rm -rf ~ #", marks=pytest.mark.slow),
        pytest.param("line 1\nline 2", marks=pytest.mark.slow),
        pytest.param("\x1b[2K\u202e'\\n\U000e0041", marks=pytest.mark.slow),
    ],
    ids=["all", "shell", "lines", "hidden"],
)
def test_forget_quotes_device_ids_in_the_commands_that_it_prints(stage: Stage, shared: str) -> None:
    stage.put(entered("a1", "ann", shared), entered("b1", "bob", shared))
    stage.loaded()
    stage.consume(entered("a1", "ann", shared), entered("b1", "bob", shared))
    _, step = report_of("--user", "ann", "--no-marts", "--stage", "dev", code=1)["next"]
    assert step.isprintable()
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {step}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    wanted = ["milkrun", "forget", "--device", shared, "--stage", "dev", ""]
    assert words.stdout.decode().split("\0") == wanted
    assert [visit.entered_event_id for visit in stage.visits(shared)] == ["b1"]


def test_forgetting_a_device_deletes_the_data_of_all_its_users(
    stage: Stage, built: list[tuple[str, ...]]
) -> None:
    stage.put(ANN, entered("b2", "bob", "phone-1"), BOB)
    stage.loaded()
    stage.consume(ANN, entered("b2", "bob", "phone-1"), BOB)
    report_of("--device", "phone-1")
    assert stage.lines("events/") == [BOB]
    assert [item["pk"] for item in stage.items()] == ["phone-2"]
    assert built == [("--full-refresh",)]


@pytest.mark.slow
def test_hash_of_ids_is_removed_from_plans_that_an_earlier_version_wrote(stage: Stage) -> None:
    digest = hashlib.sha256(b"ann").hexdigest()
    plan = {"request": digest[:16], "users_sha256": digest, "objects": [{"old": "events/x", "new": None}]}
    stage.bucket.write(f"forget/{digest[:16]}/plan.json", json.dumps(plan).encode())
    report_of("--user", "nobody")
    [kept] = stage.keys("forget/")
    assert digest[:16] not in kept + stage.bucket.read(kept).decode()
    assert json.loads(stage.bucket.read(kept))["objects"] == plan["objects"]  # read by reconcile


def test_forgetting_an_unknown_person_starts_no_dbt_build(stage: Stage, built: list[tuple[str, ...]]) -> None:
    stage.put(BOB)
    assert report_of("--user", "ann")["objects"] == 0
    assert built == []


@pytest.mark.parametrize("nobody", [["--user", ""], ["--user", " "], ["--device", ""], []])
def test_forget_refuses_an_empty_or_missing_id(nobody: list[str]) -> None:
    """The command fails before it looks up the stage."""
    assert run(*nobody, "--yes").exit_code == 2


def test_forget_changes_nothing_if_the_confirmation_is_declined(stage: Stage) -> None:
    key = stage.put(ANN)
    assert run("--user", "ann", answer="n\n").exit_code == 1
    assert stage.keys() == [key]


def test_forget_reports_claim_checks_in_flight_whose_object_is_deleted(stage: Stage) -> None:
    key = stage.put(ANN, BOB)
    stage.loaded()
    stage.consume(ANN, BOB)
    url = stage.outputs.redrive_queue_url
    stage.claim(url, key, [1, 2])
    stage.sqs.receive_message(QueueUrl=url, VisibilityTimeout=600)
    [step] = report_of("--user", "ann")["next"]
    assert step.startswith("milkrun reconcile --repair ")


def test_event_that_the_consumer_processes_later_is_deleted_by_the_next_run(stage: Stage) -> None:
    """The next run reads the person's geofence events from the old objects, so the first run must keep the objects."""
    now = datetime.now(UTC).isoformat()
    recent = line("a1", user={"userId": "ann", "deviceId": "phone-1"}, createdAt=now)
    stage.put(recent)
    stage.loaded()
    report = report_of("--user", "ann", "--timeout", "0", code=1)
    assert report["not_consumed_yet"] == 1
    assert "or 6 hours after it was received" in report["next"][0]
    stage.consume(recent)
    report_of("--user", "ann", "--timeout", "0")
    assert (stage.items(), stage.keys("events/"), stage.raw.count()) == ([], [], 0)


@pytest.mark.parametrize(
    "step",
    [
        "delete_rows",
        pytest.param("delete_old", marks=pytest.mark.slow),
        pytest.param("refresh_marts", marks=pytest.mark.slow),
    ],
)
def test_rows_of_expired_objects_are_deleted_by_the_run_after_an_interruption(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, built: list[tuple[str, ...]], step: str
) -> None:
    """The objects have expired, so only a row in RAW links the person to the device. The interrupted run may have
    deleted this row, and has not rebuilt the marts.
    """
    old = [stage.put(event) for event in (ANN, line("d1", user={"deviceId": "phone-1"}), BOB)]
    stage.loaded()
    stage.bucket.delete(old)
    raw = f"{stage.outputs.database}.RAW.EVENTS"

    def interrupted(*_: object) -> None:
        if step == "delete_rows":
            stage.raw.run(f"DELETE FROM {raw} WHERE file_name = '{old[0]}'")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            {"delete_rows": forget.forget_rows, "delete_old": forget.archive}.get(step, forget),
            step,
            interrupted,
        )
        run("--user", "ann", "--yes", "--timeout", "0")
    assert built == []
    report_of("--user", "ann", "--timeout", "0")
    assert [json.loads(each)["_id"] for each in stage.raw_lines("EVENTS")] == ["b1"]
    assert built == [("--full-refresh",)]


def test_persons_rows_that_snowpipe_loads_late_are_deleted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snowpipe does not always load files in the order in which they were written."""
    key = stage.put(ANN, BOB)
    stage.loaded()
    stage.consume(ANN, BOB)
    delete_old = forget.archive.delete_old

    def loading(bucket: object, pairs: object) -> None:
        stage.raw.run(
            "INSERT INTO RAW.EVENTS (payload, file_name, file_row_number)"
            f" SELECT PARSE_JSON('{ANN.decode()}'), '{key}', 1"
        )
        delete_old(bucket, pairs)

    monkeypatch.setattr(forget.archive, "delete_old", loading)
    report_of("--user", "ann")
    assert [json.loads(each)["_id"] for each in stage.raw_lines("EVENTS")] == ["b1"]


@pytest.mark.slow
def test_event_stored_again_by_a_simultaneous_forget_is_deleted_by_the_next_run(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one run forgets Ann, another one stores a copy of the old object without Bob's event, but with Ann's."""
    stage.put(ANN, BOB)
    stage.loaded()
    stage.consume(ANN, BOB)
    delete_old = forget.archive.delete_old

    def rewriting(bucket: Bucket, pairs: Sequence[Row]) -> None:
        [old] = [each for each in bucket.list("events/") if each.key == pairs[0]["old"]]
        forget.archive.rewrite(bucket, Subject.of(["bob"]), old)
        delete_old(bucket, pairs)

    with monkeypatch.context() as patch:
        patch.setattr(forget.archive, "delete_old", rewriting)
        report = report_of("--user", "ann", code=1)
    assert report["next"][0].startswith("Run the command again.")
    monkeypatch.setattr(forget, "MAX_RECORD_AGE", timedelta(0))  # as if six hours had passed
    report_of("--user", "ann")
    assert stage.lines("events/") == [BOB]
    assert [item["pk"] for item in stage.items()] == ["phone-2"]


def test_quarantined_record_of_the_persons_device_is_deleted(stage: Stage) -> None:
    """A record whose content is unreadable is recognized by its partition key, which is the device id."""
    own, other = ({"shard": "s", "partition_key": f"phone-{n}"} for n in (1, 2))
    stage.put(ANN)
    stage.put(quarantine_line(WHY, b"\xff", own), quarantine_line(WHY, b"\xff", other), prefix="set-aside")
    stage.loaded()
    stage.consume(ANN)
    report_of("--user", "ann")
    [left] = stage.lines("set-aside/")
    assert json.loads(left)["origin"] == other


@pytest.mark.slow
def test_damaged_job_result_is_reported_and_forget_continues(stage: Stage) -> None:
    stage.put(ANN)
    stage.bucket.write("rebuilt/r/visits/1.parquet", b"PAR1")
    stage.bucket.write("rebuilt/r/differences.ndjson", b'{"device_id": "\xff"}\n')
    stage.put_parquet(
        "streamed/live/overdue_exits/1.parquet", [{"device_id": "phone-1"}, {"device_id": "phone-2"}]
    )
    stage.loaded()
    stage.consume(ANN)
    report = report_of("--user", "ann", code=1)
    assert report["unreadable"] == ["rebuilt/r/differences.ndjson", "rebuilt/r/visits/1.parquet"]
    assert stage.keys("events/") == []
    assert stage.parquet_rows("streamed/live/overdue_exits/1.parquet") == [{"device_id": "phone-2"}]


@pytest.mark.slow
def test_compacted_rows_of_expired_objects_are_deleted(stage: Stage) -> None:
    """A compacted file may be written late, and then outlives the objects from which it was made."""
    old = stage.put(ANN, line("d1", user={"userId": "ann", "deviceId": "phone-1"}), BOB)
    list(compact_with_duckdb(stage.bucket, stale(stage.bucket, HOURS)))
    stage.bucket.delete([old])
    report_of("--user", "ann", "--timeout", "0")
    files = [key for key in stage.keys("compacted/dt=") if key.endswith(".parquet")]
    assert [row["payload"].encode() for key in files for row in stage.parquet_rows(key)] == [BOB]
