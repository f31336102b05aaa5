"""Test that `forget` removes all data of the given users and nothing of others."""

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.events import Reason
from contract.objects import lines_of, quarantine_line, reject_line, unreadable_line
from glue.archive import Folder, Hours, Stored
from glue.compact import compact_with_duckdb, compacted_files, stale
from glue.forget import candidates, main
from tests.unit.glue.made import HOUR, archived, line, payloads

HOURS = Hours(HOUR, HOUR.replace(hour=9))
WHY = [Reason("missing_id", "_id", "`_id` is missing.")]
SECRET = "ann ünna"


def theirs(event_id: str) -> bytes:
    return line(event_id, user=SECRET)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "ids.txt"
    path.write_text(f"{SECRET}\n\nbob\n")
    return path


def forget(archive: Path, users: Path, *more: str) -> int:
    return main(["--archive", str(archive), "--users", str(users), "--request", "r1", *more])


def everything(archive: Path) -> Iterator[bytes]:
    """Yield all text in the archive, decompressed and decoded."""
    for path in archive.rglob("*.gz"):
        for each in lines_of(path.read_bytes()):
            yield each
            for name in ("body_base64", "record_base64"):
                yield base64.b64decode(json.loads(each).get(name) or b"")
    yield from payloads(Folder(archive), [str(p.relative_to(archive)) for p in archive.rglob("*.parquet")])
    for path in (archive / "aws").rglob("*.json"):
        kept = json.loads(path.read_text())["payload"]
        request = json.loads(kept) if isinstance(kept, str) else kept
        yield from (base64.b64decode(each["kinesis"]["data"]) for each in request["Records"])


def invocation_record(archive: Path, name: str, event: bytes, *, as_text: bool = True) -> None:
    """Write the record of a failed invocation. Lambda stores the request as a string, LocalStack as an
    object.
    """
    request = {"Records": [{"kinesis": {"data": base64.b64encode(event).decode()}}]}
    record = {"payload": json.dumps(request) if as_text else request}
    path = archive / "aws/lambda/mapping" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def world(archive: Path) -> list[bytes]:
    """Write events of two users and of others to every prefix; return the accepted events of the others."""
    others = [line(f"o{n}", user=f"driver-{n}") for n in range(30)]
    mixed = [*others[:10], theirs("t1"), *others[10:20], line("t2", user="bob"), *others[20:]]
    escaped = theirs("t3").replace(b"ann", b"\\u0061nn")
    by_id = b'{"_id":"t4","type":"t","createdAt":"2026-11-16T08:00:00Z","user":{"_id":"bob","deviceId":"d"}}'
    on_top = b'{"_id":"t5","type":"t","createdAt":"2026-11-16T08:00:00Z","deviceId":"d","userId":"bob"}'
    archived(archive, [*mixed, escaped, by_id, on_top], batch=8)
    archived(archive, [theirs("t6"), theirs("t7")])
    kept = reject_line(WHY, line("r2"), index=1, event_id="r2")
    raw = unreadable_line(WHY, b"oops {bob}", content_type="text/plain", content_encoding=None)
    rejects = [reject_line(WHY, theirs("r1"), index=0, event_id="r1"), kept, raw]
    archived(archive, rejects, prefix="rejected")
    aside = [
        quarantine_line(WHY, theirs("s1"), {"shard": "1"}),
        quarantine_line(WHY, b"\xffbob", {"shard": "2"}),
    ]
    archived(archive, aside, prefix="set-aside")
    invocation_record(archive, "theirs", theirs("g1"))
    invocation_record(archive, "theirs-as-it-is", theirs("g2"), as_text=False)
    invocation_record(archive, "others", others[0])
    list(compact_with_duckdb(Folder(archive), stale(Folder(archive), HOURS)))
    return others


def test_both_runs_remove_all_data_of_the_users_and_nothing_else(tmp_path: Path, users: Path) -> None:
    archive = tmp_path / "archive"
    others = world(archive)
    assert forget(archive, users) == 0
    assert forget(archive, users, "--finish") == 0
    for text in everything(archive):
        assert b"bob" not in text
        assert SECRET not in text.decode(errors="replace")
        assert b'"userId":"\\u0061nn' not in text
        assert json.dumps(SECRET).encode() not in text
    store = Folder(archive)
    kept = [each for stored in store.list("events/") for each in lines_of(store.read(stored.key))]
    assert sorted(kept) == sorted(others)
    assert sorted(payloads(store, compacted_files(store, HOURS))) == sorted(others)
    assert (archive / "aws/lambda/mapping/others.json").exists()
    assert stale(store, HOURS) == []


def test_first_run_deletes_nothing_and_prints_the_warehouse_sql(
    tmp_path: Path, users: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    world(archive)
    before = {path for path in archive.rglob("*") if path.is_file()}
    assert forget(archive, users) == 0
    assert before <= {path for path in archive.rglob("*") if path.is_file()}
    printed = json.loads(capsys.readouterr().out)
    assert printed["lines"] == 13
    assert [sql.split("(")[0] for sql in printed["sql"]] == [
        "DELETE FROM MILKRUN.RAW.EVENTS WHERE file_name IN ",
        "DELETE FROM MILKRUN.RAW.REJECTED WHERE file_name IN ",
    ]
    plan = (archive / "forget/r1/plan.json").read_text()
    assert "bob" not in plan


def test_both_runs_can_be_repeated(tmp_path: Path, users: Path) -> None:
    archive = tmp_path / "archive"
    world(archive)
    assert [forget(archive, users), forget(archive, users)] == [0, 0]
    assert [forget(archive, users, "--finish"), forget(archive, users, "--finish")] == [0, 0]
    assert not any(b"bob" in text for text in everything(archive))


def test_nothing_is_deleted_while_a_new_object_is_missing(tmp_path: Path, users: Path) -> None:
    archive = tmp_path / "archive"
    world(archive)
    forget(archive, users)
    plan = json.loads((archive / "forget/r1/plan.json").read_text())
    new = next(pair["new"] for pair in plan["objects"] if pair["new"])
    (archive / new).unlink()
    assert forget(archive, users, "--finish") == 2
    assert all((archive / pair["old"]).exists() for pair in plan["objects"])


def test_existing_request_name_with_other_users_is_rejected(tmp_path: Path, users: Path) -> None:
    archive = tmp_path / "archive"
    world(archive)
    forget(archive, users)
    users.write_text("carol\n")
    assert forget(archive, users) == 2
    with pytest.raises(SystemExit):
        forget(archive, users, "--finish")


def test_unreadable_object_is_reported_because_it_may_name_a_user(
    tmp_path: Path, users: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [key] = archived(tmp_path / "archive", [theirs("t")])
    (tmp_path / "archive" / key).write_bytes(b"broken")
    assert forget(tmp_path / "archive", users) == 1
    assert json.loads(capsys.readouterr().out)["unreadable"] == 1


def test_id_in_an_unrelated_field_does_not_remove_the_event(tmp_path: Path, users: Path) -> None:
    archived(
        tmp_path / "archive",
        [line("x", metadata={"note": "bob"}), line("y", device="bob"), line("z", event="bob")],
    )
    assert forget(tmp_path / "archive", users) == 0
    assert json.loads((tmp_path / "archive/forget/r1/plan.json").read_text())["objects"] == []


BODY = b'{"user":{"userId":"bob"},"note":"' + bytes(range(97, 123)) * 20 + b'"'


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(BODY),
        gzip.compress(BODY)[:-12],
        gzip.compress(b"other") + gzip.compress(BODY),
        BODY.replace(b"bob", b"b\\u006fb") + b"}",
        b"[" * 100_000 + b"bob",
    ],
    ids=["gzip", "truncated gzip", "second gzip member", "escaped", "nested too deeply"],
)
def test_id_in_an_unreadable_body_is_found_if_compressed_or_escaped(
    tmp_path: Path, users: Path, body: bytes
) -> None:
    archive = tmp_path / "archive"
    raw = unreadable_line(WHY, body, content_type="application/json", content_encoding="gzip")
    other = unreadable_line(WHY, gzip.compress(b"oops"), content_type=None, content_encoding="gzip")
    archived(archive, [raw, other], prefix="rejected")
    assert forget(archive, users) == 0
    assert forget(archive, users, "--finish") == 0
    kept = [each for path in (archive / "rejected").rglob("*.gz") for each in lines_of(path.read_bytes())]
    assert kept == [other]


@pytest.mark.parametrize(
    "event", [b'{"user":{"userId":778899}}', b'{"userId":778899}', b'{"user":"bob"}', b'["bob"]', b'"bob"']
)
def test_rejected_event_with_an_id_of_the_wrong_type_is_forgotten(
    tmp_path: Path, users: Path, event: bytes
) -> None:
    archive = tmp_path / "archive"
    users.write_text("bob\n778899\n")
    others = [
        reject_line(WHY, text, index=n, event_id=None)
        for n, text in enumerate([b'{"user":{"userId":7788990}}', b'{"note":"bob"}', b"[1]"])
    ]
    archived(archive, [reject_line(WHY, event, index=9, event_id=None), *others], prefix="rejected")
    assert [forget(archive, users), forget(archive, users, "--finish")] == [0, 0]
    kept = [each for path in (archive / "rejected").rglob("*.gz") for each in lines_of(path.read_bytes())]
    assert kept == others


FOLDER = "events/dt=2026-11-16/hh=08"


@pytest.mark.parametrize(
    ("key", "body"),
    [
        (f"{FOLDER}/repaired.ndjson", theirs("a1") + b"\n" + line("b1", user="bea") + b"\n"),
        (f"{FOLDER}/repaired.ndjson.gz", gzip.compress(theirs("a1") + b"\r\n" + line("b1", user="bea"))),
        ("events/by-hand.json", b"[" + theirs("a1") + b",\n " + line("b1", user="bea") + b"]"),
        (f"{FOLDER}/it's.ndjson", b"\xef\xbb\xbf" + theirs("a1") + b"\n\n" + line("b1", user="bea")),
    ],
)
def test_file_with_a_foreign_key_is_forgotten(tmp_path: Path, users: Path, key: str, body: bytes) -> None:
    path = tmp_path / "archive" / key
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    assert forget(tmp_path / "archive", users) == 0
    assert forget(tmp_path / "archive", users, "--finish") == 0
    assert not path.exists()
    left = [each for each in everything(tmp_path / "archive") if each]
    assert [json.loads(each)["_id"] for each in left] == ["b1"]


def test_file_that_is_not_json_is_deleted_if_it_contains_an_id(tmp_path: Path, users: Path) -> None:
    folder = tmp_path / "archive" / "events"
    folder.mkdir(parents=True)
    (folder / "theirs.txt").write_text(f"{{ by hand\n{SECRET}\n")
    (folder / "others.txt").write_text("{ by hand\nbea\n")
    assert forget(tmp_path / "archive", users) == 0
    assert forget(tmp_path / "archive", users, "--finish") == 0
    assert [path.name for path in folder.iterdir()] == ["others.txt"]


class WithMarkers(Folder):
    """A listing with a folder marker, as the S3 console creates it, and an empty object."""

    def list(self, prefix: str) -> Iterator[Stored]:
        yield from super().list(prefix)
        for key in (f"{FOLDER}/", f"{FOLDER}/empty.ndjson.gz", "rejected/"):
            if key.startswith(prefix):
                yield Stored(key, 0, HOUR)


def test_folder_markers_and_empty_objects_are_ignored(tmp_path: Path) -> None:
    store = WithMarkers(tmp_path)
    assert list(candidates(store)) == []
    assert stale(store, HOURS) == []


@pytest.mark.parametrize("name", ["missing", "folder", "binary"])
def test_unreadable_list_of_users_is_reported_without_a_traceback(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit) as ended:
        forget(tmp_path / "archive", tmp_path / name)
    assert ended.value.code == 2
    assert f"cannot read {tmp_path / name}" in capsys.readouterr().err
