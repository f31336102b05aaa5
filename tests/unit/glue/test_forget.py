"""Test that `forget` removes all data of the given users and keeps the data of all other users."""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from contract.archive_object import lines_object, lines_of
from contract.events import Reason
from contract.rejected_lines import quarantine_line
from glue.archive import Folder, Hours, Stored
from glue.compact import compact_with_duckdb, compacted_files, stale
from glue.forget import candidates, main
from glue.person import Subject
from tests.rejects import reject_line, unreadable_line
from tests.unit.glue.sample_archives import HOUR, archived, line, payloads

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
    """Yield all text in gzip files, Parquet files and invocation records, decompressed and decoded from base64."""
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


def invocation_record(archive: Path, name: str, *events: bytes, as_text: bool = True) -> None:
    """Write the record of a failed invocation. Lambda stores the request as a string, LocalStack as an object."""
    request = {"Records": [{"kinesis": {"data": base64.b64encode(event).decode()}} for event in events]}
    record = {"payload": json.dumps(request) if as_text else request}
    path = archive / "aws/lambda/mapping" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def world(archive: Path) -> list[bytes]:
    """Write events of the two users to forget under every prefix, and of other users under all prefixes but set-aside/.

    Returns the accepted events of the other users.
    """
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


def test_first_run_and_finishing_run_remove_all_data_of_the_users_and_nothing_else(
    tmp_path: Path, users: Path
) -> None:
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


def test_first_run_of_forget_deletes_nothing_and_prints_the_warehouse_sql(
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


def test_both_runs_of_forget_can_be_repeated(tmp_path: Path, users: Path) -> None:
    archive = tmp_path / "archive"
    world(archive)
    assert [forget(archive, users), forget(archive, users)] == [0, 0]
    assert [forget(archive, users, "--finish"), forget(archive, users, "--finish")] == [0, 0]
    assert not any(b"bob" in text for text in everything(archive))


def test_finishing_run_deletes_nothing_while_a_replacement_object_is_missing(
    tmp_path: Path, users: Path
) -> None:
    archive = tmp_path / "archive"
    world(archive)
    forget(archive, users)
    plan = json.loads((archive / "forget/r1/plan.json").read_text())
    new = next(pair["new"] for pair in plan["objects"] if pair["new"])
    (archive / new).unlink()
    assert forget(archive, users, "--finish") == 2
    assert all((archive / pair["old"]).exists() for pair in plan["objects"])


ANN = "ann-7f3c21"
T = '"type":"t","createdAt":"2026-11-16T08:00:00Z"'
NEXT_TO_HER = '{"_id":"n","type":"t","createdAt":"2026-11-16T08:00:00Z","deviceId":"van-2","userId":"bea"}'


@pytest.mark.parametrize(
    ("given", "event"),
    [
        (ANN, f'{{"_id":"x",{T},"deviceId":"d","user_id":"{ANN}"}}'),
        (ANN, f'{{"_id":"x",{T},"user":{{"user_id":"{ANN}"}},"deviceId":"d"}}'),
        (ANN, f'{{"_id":"x",{T},"user":{{"USERID":["{ANN}"]}},"deviceId":"d"}}'),
        (ANN, f'{{"_id":"x",{T},"deviceId":"d","metadata":{{"userId":"{ANN}"}}}}'),
        (ANN, f'{{"_id":"x",{T},"deviceId":"d","metadata":{{"crew":[{{"driver":"{ANN}"}}]}}}}'),
        (ANN, f'{{"_id":"x",{T},"user":{{"deviceId":"d","metadata":{{"who":"{ANN}"}}}}}}'),
        (ANN, f'{{"_id":"x",{T},"deviceId":"d","trip":{{"user_id":"{ANN}"}}}}'),
        ("778899", f'{{"_id":"x",{T},"deviceId":"d","user":{{"userId":778899}}}}'),
        ("778899", f'{{"_id":"x",{T},"deviceId":"d","metadata":{{"userId":778899.0}}}}'),
        ("J\u00fcrgen", f'{{"_id":"x",{T},"deviceId":"d","user":{{"userId":"Ju\u0308rgen"}}}}'),
        ("Ju\u0308rgen", f'{{"_id":"x",{T},"deviceId":"d","user":{{"userId":"J\u00fcrgen"}}}}'),
        ("\U0001f69a7", f'{{"_id":"x",{T},"deviceId":"d","user":{{"userId":"\\ud83d\\ude9a7"}}}}'),
    ],
    ids=[f"spelling-{n}" for n in range(12)],
)
@pytest.mark.parametrize("prefix", ["events", "rejected", "set-aside"])
def test_user_id_is_found_under_other_field_names_and_in_other_spellings(
    tmp_path: Path, users: Path, prefix: str, given: str, event: str
) -> None:
    users.write_text(f"{given}\n")
    texts = [event.encode(), NEXT_TO_HER.encode()]
    if prefix == "rejected":
        texts = [reject_line(WHY, text, index=n, event_id=None) for n, text in enumerate(texts)]
    if prefix == "set-aside":
        texts = [quarantine_line(WHY, text, {"shard": "1"}) for text in texts]
    archived(tmp_path / "archive", texts, prefix=prefix)
    assert [forget(tmp_path / "archive", users), forget(tmp_path / "archive", users, "--finish")] == [0, 0]
    assert left(tmp_path / "archive", prefix) == texts[1:]


@pytest.mark.parametrize(
    ("given", "sent"),
    [("12345678", "1.2345678E7"), ("van-K", '"van-\u212a"'), ("a;b", '"a\u037eb"')],
    ids=["a double as Java prints it", "sign for kelvin", "Greek question mark"],
)
def test_event_on_a_shared_device_is_deleted_even_if_its_user_id_has_another_spelling(
    tmp_path: Path, users: Path, given: str, sent: str
) -> None:
    """The event can be found only by its user id, because another user has the same device."""
    users.write_text(f"{given}\n")
    theirs = f'{{"_id":"x",{T},"deviceId":"tablet","user_id":{sent}}}'.encode()
    others = line("y", user="bea", device="tablet")
    archived(tmp_path / "archive", [theirs, others])
    assert [forget(tmp_path / "archive", users), forget(tmp_path / "archive", users, "--finish")] == [0, 0]
    assert left(tmp_path / "archive") == [others]


def left(archive: Path, prefix: str = "events") -> list[bytes]:
    return [each for path in (archive / prefix).rglob("*.gz") for each in lines_of(path.read_bytes())]


@pytest.mark.parametrize(
    "event",
    [
        line("x", user=ANN.upper()),  # ids are case-sensitive
        line("x", user=ANN + "9"),
        line("x", user="bea", metadata={"handed_over_to": ANN}),
        line("x", user="bea", metadata={"userId": ANN}),
        line("x", device=ANN),
        b'{"_id":"x","type":"t","createdAt":"2026-11-16T08:00:00Z","deviceId":"d","metadata":{"litres":778899}}',
    ],
    ids=["upper case", "longer id", "mention", "mention as user", "device", "number of litres"],
)
def test_event_that_does_not_belong_to_the_user_is_kept_even_if_it_contains_the_same_or_a_similar_id(
    tmp_path: Path, users: Path, event: bytes
) -> None:
    users.write_text(f"{ANN}\n778899\n")
    archived(tmp_path / "archive", [event])
    assert forget(tmp_path / "archive", users) == 0
    assert left(tmp_path / "archive") == [event]
    assert json.loads((tmp_path / "archive/forget/r1/plan.json").read_text())["objects"] == []


def device_only(event_id: str, device: str) -> bytes:
    text = f'{{"_id":"{event_id}",{T},"user":{{"deviceId":"{device}"}}}}'
    return text.encode()


def test_events_without_a_user_are_deleted_if_only_the_user_to_forget_used_the_device(
    tmp_path: Path, users: Path
) -> None:
    """If two drivers share a device, an event without a user may belong to either of them, so it is kept."""
    users.write_text(f"{ANN}\n")
    others = [
        line("b1", user="bob-1", device="shared"),
        device_only("s1", "shared"),
        device_only("o1", "elsewhere"),
    ]
    theirs = [
        line("a1", user=ANN, device="own"),
        device_only("a2", "own"),
        line("a3", user=ANN, device="shared"),
    ]
    archived(tmp_path / "archive", [*theirs, *others], batch=1)
    raw = unreadable_line(WHY, b'{"deviceId":"own", oops', content_type=None, content_encoding=None)
    archived(tmp_path / "archive", [raw], prefix="rejected")
    assert [forget(tmp_path / "archive", users), forget(tmp_path / "archive", users, "--finish")] == [0, 0]
    assert sorted(left(tmp_path / "archive")) == sorted(others)
    assert left(tmp_path / "archive", "rejected") == []


def test_forgetting_a_device_deletes_the_events_of_all_its_users(tmp_path: Path) -> None:
    (tmp_path / "devices").write_text("shared\n")
    archived(tmp_path / "archive", [line("a", user=ANN, device="shared"), device_only("s", "shared")])
    archived(tmp_path / "archive", [line("b", user=ANN, device="other")])
    given = ["--archive", str(tmp_path / "archive"), "--request", "r1"]
    assert main([*given, "--devices", str(tmp_path / "devices")]) == 0
    assert main([*given, "--finish"]) == 0
    assert left(tmp_path / "archive") == [line("b", user=ANN, device="other")]


def by_account(event_id: str, account: str, **user: str) -> bytes:
    who = json.dumps({"_id": account, "deviceId": f"device-{event_id}", **user})
    return f'{{"_id":"{event_id}",{T},"user":{who}}}'.encode()


def test_events_that_contain_only_the_account_id_of_the_user_are_deleted(tmp_path: Path, users: Path) -> None:
    """Events without `userId` may contain the account id in `user._id`."""
    users.write_text(f"{ANN}\n")
    theirs = [by_account("a1", "5f01", userId=ANN), by_account("a2", "5f01")]
    others = [by_account("c1", "5f02", userId="cleo"), by_account("c2", "5f03")]
    # Two users share this `_id`, so an event without `userId` may belong to either of them.
    others += [by_account("d1", "5f04", userId="dan"), by_account("d2", "5f04")]
    theirs += [by_account("d3", "5f04", userId=ANN)]
    archived(tmp_path / "archive", [*theirs, *others])
    assert [forget(tmp_path / "archive", users), forget(tmp_path / "archive", users, "--finish")] == [0, 0]
    assert left(tmp_path / "archive") == others


def test_plan_contains_neither_ids_nor_hashes_of_ids(tmp_path: Path, users: Path) -> None:
    users.write_text(f"{ANN}\n")
    archived(tmp_path / "archive", [line("a", user=ANN, device="phone-4711"), line("b", user="bea")])
    assert forget(tmp_path / "archive", users) == 0
    plan = (tmp_path / "archive/forget/r1/plan.json").read_text()
    for text in (ANN, "phone-4711", f"{ANN}\n"):
        assert text not in plan
        for name in ("md5", "sha1", "sha256", "sha512", "blake2b"):
            digest = hashlib.new(name, text.encode())
            assert digest.hexdigest()[:8] not in plan
            assert base64.b64encode(digest.digest()).decode()[:8] not in plan


@pytest.mark.parametrize("request_name", ["../../elsewhere", "a/b", "", ".hidden"])
def test_invalid_request_name_is_rejected(tmp_path: Path, users: Path, request_name: str) -> None:
    with pytest.raises(SystemExit):
        main(["--archive", str(tmp_path / "a"), "--users", str(users), "--request", request_name])
    assert not any(path.name == "plan.json" for path in tmp_path.rglob("*"))


def test_forget_keeps_the_records_of_other_users_in_an_invocation_record(tmp_path: Path, users: Path) -> None:
    users.write_text(f"{ANN}\n")
    archive = tmp_path / "archive"
    other = line("b", user="bea", device="van-2")
    invocation_record(archive, "batch.json", other, line("a", user=ANN))
    assert [forget(archive, users), forget(archive, users, "--finish")] == [0, 0]
    [path] = (archive / "aws/lambda").rglob("*batch*")
    [record] = json.loads(json.loads(path.read_text())["payload"])["Records"]
    assert base64.b64decode(record["kinesis"]["data"]) == other


def test_forget_deletes_parquet_files_that_no_manifest_names(tmp_path: Path, users: Path) -> None:
    """Such files remain after an interrupted compaction."""
    users.write_text(f"{ANN}\n")
    archive = tmp_path / "archive"
    archived(archive, [line("a", user=ANN), line("b", user="bea")])
    list(compact_with_duckdb(Folder(archive), stale(Folder(archive), HOURS)))
    for path in (archive / "compacted/_manifests").rglob("*.json"):
        path.unlink()
    assert [forget(archive, users), forget(archive, users, "--finish")] == [0, 0]
    assert list(archive.rglob("*.parquet")) == []


def test_unreadable_object_that_may_contain_an_id_is_reported_by_both_runs(
    tmp_path: Path, users: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [key] = archived(tmp_path / "archive", [theirs("t")])
    (tmp_path / "archive" / key).write_bytes(b"broken")
    for more in ([], ["--finish"]):
        assert forget(tmp_path / "archive", users, *more) == 1
        assert json.loads(capsys.readouterr().out)["unreadable"] == 1


def test_event_is_kept_if_the_id_occurs_only_in_an_unrelated_field(tmp_path: Path, users: Path) -> None:
    archived(
        tmp_path / "archive",
        [line("x", metadata={"note": "bob"}), line("y", device="bob"), line("z", event="bob")],
    )
    assert forget(tmp_path / "archive", users) == 0
    assert json.loads((tmp_path / "archive/forget/r1/plan.json").read_text())["objects"] == []


def damaged(member: bytes) -> bytes:
    """Return a gzip member whose compressed data is invalid in the middle."""
    middle = len(member) // 2
    return member[:middle] + b"\xff" * 8 + member[middle + 8 :]


OTHER = gzip.compress(bytes(range(97, 123)) * 20, mtime=0)
BODY = b'{"user":{"userId":"bob"},"note":"' + bytes(range(97, 123)) * 20 + b'"'


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(BODY),
        gzip.compress(BODY)[:-12],
        gzip.compress(b"other") + gzip.compress(BODY),
        damaged(OTHER) + gzip.compress(BODY),
        OTHER[:-12] + gzip.compress(BODY),
        b"\xff" * 10 + OTHER[10:] + gzip.compress(BODY),
        b"\x1f\x8b\x08" * 300 + gzip.compress(BODY),
        gzip.compress(BODY)[:-8] + bytes(8),
        gzip.compress(b"\xff" + BODY.replace(b"bob", b"b\\u006fb")),
        BODY.replace(b"bob", b"b\\u006fb") + b"}",
        b"[" * 100_000 + b"bob",
    ],
    ids=[
        "gzip",
        "truncated gzip",
        "second gzip member",
        "after a damaged member",
        "after a truncated member",
        "after a member without a valid header",
        "after false headers",
        "wrong checksum",
        "gzip, escaped, not UTF-8",
        "escaped",
        "nested too deeply",
    ],
)
def test_id_in_an_unreadable_body_is_found_even_if_compressed_or_escaped(
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


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "repeated",
    [
        gzip.compress(b"", mtime=0),
        b"\x1f\x8b\x08",
        b"\x1f\x8b\x08\x08name",  # no zero byte follows, so the file name extends to the end of the body
    ],
    ids=["empty members", "false headers", "unending file names"],
)
def test_time_to_search_a_hostile_gzip_body_is_not_quadratic(repeated: bytes) -> None:
    assert not Subject.of(["bob"]).in_bytes(repeated * (8_000_000 // len(repeated)))


def test_short_id_in_compressed_bytes_is_not_a_match() -> None:
    """Only decompressed text can contain personal data.

    The bytes of the timestamp in a gzip header may happen to equal a short id.
    """
    at = int.from_bytes(b" x  ", "little")
    subject = Subject.of(["x"])
    assert not subject.in_bytes(gzip.compress(b'{"userId":"bob",', mtime=at))
    assert not subject.in_bytes(gzip.compress(b'{"userId":"bob",', mtime=at)[:-10])
    assert subject.in_bytes(gzip.compress(b'{"userId":"x",', mtime=0))
    assert subject.in_bytes(gzip.compress(b'{"userId":"bob",', mtime=at) + b'{"userId":"x",')


@pytest.mark.parametrize(
    "event", [b'{"user":{"userId":778899}}', b'{"userId":778899}', b'{"user":"bob"}', b'["bob"]', b'"bob"']
)
def test_rejected_event_is_deleted_even_if_its_user_id_has_the_wrong_type(
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


def indented(text: bytes) -> bytes:
    return json.dumps(json.loads(text), indent=2).encode()


@pytest.mark.parametrize(
    ("key", "body"),
    [
        (f"{FOLDER}/repaired.ndjson", theirs("a1") + b"\n" + line("b1", user="bea") + b"\n"),
        (f"{FOLDER}/repaired.ndjson.gz", gzip.compress(theirs("a1") + b"\r\n" + line("b1", user="bea"))),
        ("events/by-hand.json", b"[" + theirs("a1") + b",\n " + line("b1", user="bea") + b"]"),
        (f"{FOLDER}/by-jq.json", indented(theirs("a1")) + b"\n" + indented(line("b1", user="bea")) + b"\n"),
        (f"{FOLDER}/it's.ndjson", b"\xef\xbb\xbf" + theirs("a1") + b"\n\n" + line("b1", user="bea")),
    ],
)
def test_lines_of_the_user_are_removed_from_a_file_with_a_custom_key(
    tmp_path: Path, users: Path, key: str, body: bytes
) -> None:
    path = tmp_path / "archive" / key
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    assert forget(tmp_path / "archive", users) == 0
    assert forget(tmp_path / "archive", users, "--finish") == 0
    assert not path.exists()
    left = [each for each in everything(tmp_path / "archive") if each]
    assert [json.loads(each)["_id"] for each in left] == ["b1"]


def test_non_json_file_is_deleted_if_it_contains_an_id_to_forget(tmp_path: Path, users: Path) -> None:
    folder = tmp_path / "archive" / "events"
    folder.mkdir(parents=True)
    (folder / "theirs.txt").write_text(f"{{ by hand\n{SECRET}\n")
    (folder / "others.txt").write_text("{ by hand\nbea\n")
    assert forget(tmp_path / "archive", users) == 0
    assert forget(tmp_path / "archive", users, "--finish") == 0
    assert [path.name for path in folder.iterdir()] == ["others.txt"]


class WithMarkers(Folder):
    """A folder that also lists an empty object, and folder markers like those that the S3 console creates."""

    def list(self, prefix: str) -> Iterator[Stored]:
        yield from super().list(prefix)
        for key in (f"{FOLDER}/", f"{FOLDER}/empty.ndjson.gz", "rejected/"):
            if key.startswith(prefix):
                yield Stored(key, 0, HOUR)


def test_forget_and_compaction_ignore_folder_markers_and_empty_objects(tmp_path: Path) -> None:
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
        forget(tmp_path, tmp_path / name)
    assert ended.value.code == 2
    assert f"cannot read {tmp_path / name}" in capsys.readouterr().err


def test_each_write_to_events_is_conditional_as_the_bucket_policy_requires(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, users: Path
) -> None:
    """The bucket policy, which moto does not enforce, denies unconditional writes, including those of the Glue job."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    users.write_text(f"{ANN}\n")
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="archive")
        made = lines_object("events", [line("a", user=ANN), line("b", user="bea")], HOUR)
        s3.put_object(Bucket="archive", Key=made.key, Body=made.body)
        monkeypatch.setattr("glue.archive._s3", lambda: s3)
        sent = []
        s3.meta.events.register(
            "before-parameter-build.s3.PutObject", lambda params, **_: sent.append(params)
        )
        given = ["--archive", "s3://archive", "--users", str(users), "--request", "r1"]
        assert [main(given), main(given)] == [0, 0]
    written = [each for each in sent if each["Key"].startswith("events/")]
    assert len(written) == 2
    assert all(each.get("IfNoneMatch") == "*" for each in written)


def request(archive: Path, name: str, *more: str, ids: str = "") -> int:
    path = archive.parent / "more-ids.txt"
    path.write_text(ids)
    given = [] if "--finish" in more else ["--users", str(path)]
    return main(["--archive", str(archive), "--request", name, *given, *more])


def test_finish_without_a_first_run_is_refused_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "archive").mkdir()
    assert request(tmp_path / "archive", "unknown", "--finish") == 2
    assert capsys.readouterr().err == (
        "forget/unknown/plan.json does not exist. Run the command without --finish first.\n"
    )


def test_first_id_of_a_list_with_a_byte_order_mark_is_forgotten(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archived(archive, [line("a", user=ANN), line("b", user="bea")])
    assert request(archive, "r1", ids=f"\ufeff{ANN}\r\n") == request(archive, "r1", "--finish") == 0
    assert not any(ANN.encode() in text for text in everything(archive))


@pytest.mark.parametrize("separator", ["\u2028", "\x0b", "\x85"])
def test_only_a_line_feed_ends_an_id_in_the_list(tmp_path: Path, separator: str) -> None:
    """Otherwise, the events of the users `ann` and `bea` would be deleted."""
    archive, id_ = tmp_path / "archive", f"ann{separator}bea"
    archived(archive, [line("a", user="ann"), line("b", user="bea"), line("c", user=id_)])
    assert request(archive, "r1", ids=f"{id_}\n") == request(archive, "r1", "--finish") == 0
    assert {json.loads(each)["_id"] for each in everything(archive) if each} == {"a", "b"}


def test_finished_request_can_be_finished_again_after_a_later_request(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archived(archive, [line("a", user=ANN), line("b", user="bob"), line("c", user="bea")])
    assert request(archive, "r1", ids=ANN) == request(archive, "r1", "--finish") == 0
    assert request(archive, "r2", ids="bob") == request(archive, "r2", "--finish") == 0
    assert request(archive, "r1", "--finish") == 0


def test_second_request_is_refused_while_an_earlier_one_is_unfinished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise, the second one would store the events of the first one's users in a new object that no plan names."""
    archive = tmp_path / "archive"
    archived(archive, [line("a", user=ANN), line("b", user="bob"), line("c", user="bea")])
    assert request(archive, "r1", ids=ANN) == 0
    before = sorted(archive.rglob("*"))
    assert request(archive, "r2", ids="bob") == 2
    assert "forget/r1/plan.json is not finished" in capsys.readouterr().err
    assert sorted(archive.rglob("*")) == before
    assert request(archive, "r1", "--finish") == 0
    assert request(archive, "r2", ids="bob") == request(archive, "r2", "--finish") == 0
    assert not any(ANN.encode() in text or b"bob" in text for text in everything(archive))


def test_first_run_is_not_repeated_with_a_list_that_lacks_earlier_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    archived(archive, [line("a", user=ANN), line("b", user="bob"), line("c", user="bea")])
    assert request(archive, "r1", ids=ANN) == 0
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    assert request(archive, "r1", ids="bob") == 2
    assert "forget/r1/plan.json also covers ids that the given list lacks" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()} == before
    assert request(archive, "r1", ids=f"{ANN}\nbob") == request(archive, "r1", "--finish") == 0
    assert not any(ANN.encode() in text or b"bob" in text for text in everything(archive))
