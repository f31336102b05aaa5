"""Test that a replay sends the selected events once, at the given rate, and continues after an interruption."""

import base64
import gzip
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from aws.errors import PermanentError, RetryableError
from cli.refusal import Refusal
from contract.archive_object import hour_folder, lines_object
from contract.event_rules import geofence_event
from contract.stream_record import StreamRecord
from ops import send_to_stream
from ops.discarded_batches import given_up, replay_given_up
from ops.replay import EVER, Progress, Selection, lines_again, price_of, replay
from ops.send_to_stream import LABEL, Pace, put_all
from snowpipe.archive import Object

NOW = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)


def line(n: int, type_: str = "user.entered_geofence", device: str = "d1", **fields: object) -> bytes:
    event = {
        "_id": f"e{n}",
        "type": type_,
        "createdAt": NOW.isoformat(),
        "user": {"deviceId": device},
        "geofence": {"tag": "farm", "externalId": "f1"},
        **fields,
    }
    return json.dumps(event, separators=(",", ":")).encode()


class FakeArchive:
    """Archived objects by key, with the interface of `snowpipe.archive.Archive`."""

    def __init__(self, bodies: dict[str, bytes]) -> None:
        self.bodies = bodies

    def objects(self, prefix: str) -> Iterator[Object]:
        return (
            Object(key, NOW, len(body)) for key, body in sorted(self.bodies.items()) if key.startswith(prefix)
        )

    def received(self, prefix: str, start: datetime, end: datetime) -> Iterator[Object]:
        hours = {f"dt={at:%Y-%m-%d}/hh={at:%H}" for at in (start, end)}
        return (found for found in self.objects(prefix) if any(hour in found.key for hour in hours))

    def body(self, key: str) -> bytes | None:
        return self.bodies.get(key)


class FakeStream:
    """A stream that throttles the first `refuses` calls, and raises KeyboardInterrupt at call number `breaks_at`,
    counted from 0.
    """

    def __init__(self, breaks_at: int | None = None, refuses: int = 0) -> None:
        self.taken: list[StreamRecord] = []
        self.refuses = refuses
        self._calls = count()
        self._breaks_at = breaks_at

    def put(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
        if next(self._calls) == self._breaks_at:
            raise KeyboardInterrupt
        if self.refuses:
            self.refuses -= 1
            return list(records)
        self.taken += records
        return []


def archive(*objects: Sequence[bytes]) -> FakeArchive:
    made = [lines_object("events", lines, NOW) for lines in objects]
    return FakeArchive({each.key: each.body for each in made})


EVERYTHING = Selection(NOW, NOW)
PLAIN = line(9, "user.updated_trip")


def test_replay_sends_only_geofence_events_with_its_label_and_the_device_as_partition_key() -> None:
    stream = FakeStream()
    done = replay(archive([line(1), PLAIN, line(2, device="d2")]), stream, EVERYTHING, label="r1")
    assert [(r.partition_key, geofence_event(r.data).event_id, r.line) for r in stream.taken] == [
        ("d1", "e1", 1),
        ("d2", "e2", 3),
    ]
    assert all(json.loads(r.data)[LABEL] == "r1" for r in stream.taken)
    assert (done.objects, done.sent, dict(done.by_type)) == (1, 2, {"user.entered_geofence": 2})


def test_replay_label_does_not_change_the_geofence_event() -> None:
    stream = FakeStream()
    replay(archive([line(1, duration=2.5, confidence=3)]), stream, EVERYTHING, label="r1")
    assert geofence_event(stream.taken[0].data) == geofence_event(line(1, duration=2.5, confidence=3))


def test_event_that_already_has_the_label_field_is_replayed_unchanged() -> None:
    own = line(1, milkrun_replay="mine")
    stream = FakeStream()
    replay(archive([own]), stream, EVERYTHING, label="r1")
    assert stream.taken[0].data == own


@pytest.mark.parametrize(
    ("selection", "ids"),
    [
        (Selection(NOW, NOW, devices=frozenset({"d2"})), ["e2"]),
        (Selection(NOW, NOW, types=frozenset({"user.exited_geofence"})), ["e3"]),
        (Selection(NOW - timedelta(hours=9), NOW - timedelta(hours=9)), []),
        (Selection(NOW, NOW, prefix="events/"), ["e1", "e2", "e3"]),
        (Selection(EVER, NOW, prefix="events/"), ["e1", "e2", "e3"]),
        (Selection(NOW, NOW, prefix="events/dt=1999"), []),
        (Selection(NOW + timedelta(hours=1), NOW + timedelta(hours=2), prefix="events/"), []),
        (Selection(EVER, NOW - timedelta(hours=1), prefix="events/"), []),
    ],
)
def test_replay_sends_only_the_selected_events(selection: Selection, ids: list[str]) -> None:
    stream = FakeStream()
    lines = [line(1), line(2, device="d2"), line(3, "user.exited_geofence")]
    replay(archive(lines), stream, selection, label="r")
    assert [json.loads(r.data)["_id"] for r in stream.taken] == ids


def test_dry_run_of_a_replay_counts_the_events_and_sends_nothing() -> None:
    done = replay(archive([line(1), PLAIN], [line(2)]), None, EVERYTHING, label="")
    assert (done.objects, done.sent) == (2, 2)
    assert price_of(done) > 0


def test_interrupted_replay_continues_after_the_last_complete_object(tmp_path: Path) -> None:
    objects = archive(*([line(n)] for n in range(6)))
    progress = Progress(tmp_path / "replay" / "state.json", NOW)
    assert progress.last_key() == ""
    first = FakeStream(breaks_at=3)
    with pytest.raises(KeyboardInterrupt):
        replay(objects, first, EVERYTHING, label="a", on_sent=lambda done: progress.remember(done.last_key))
    second = FakeStream()
    replay(objects, second, EVERYTHING, label="b", after=progress.last_key())
    sent = [json.loads(r.data)["_id"] for r in first.taken + second.taken]
    assert sorted(sent) == [f"e{n}" for n in range(6)]
    assert (len(first.taken), len(second.taken)) == (3, 3)
    progress.forget()
    assert progress.last_key() == ""


def test_selections_that_differ_only_in_their_times_have_the_same_digest() -> None:
    """A command with `--from "3 hours ago"` must continue the interrupted replay when it is repeated later."""
    same = Selection(NOW + timedelta(hours=9), NOW, devices=frozenset({"a", "b"}))
    assert Selection(NOW, NOW, devices=frozenset({"b", "a"})).digest == same.digest
    assert Selection(NOW, NOW, devices=frozenset({"a"})).digest != same.digest
    assert Selection(NOW, NOW, prefix="events/").digest != EVERYTHING.digest


def test_interrupted_replay_continues_if_the_start_is_later_and_begins_again_if_it_is_earlier(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.json"
    Progress(path, NOW).remember("events/k")
    assert Progress(path, NOW + timedelta(hours=2)).last_key() == "events/k"
    assert Progress(path, NOW - timedelta(hours=1)).last_key() == ""
    later = Progress(path, NOW + timedelta(hours=2))
    later.last_key()
    later.remember("events/l")  # the saved position still belongs to the range that starts at NOW
    assert Progress(path, NOW).last_key() == "events/l"


def test_hours_between_a_saved_position_and_a_later_replay_are_not_skipped(tmp_path: Path) -> None:
    path, start = tmp_path / "state.json", NOW - timedelta(hours=6)
    Progress(path, start).remember(f"events/{hour_folder(start)}/k")
    later = Progress(path, NOW)
    assert later.last_key() == ""
    later.remember(f"events/{hour_folder(NOW)}/l")
    assert Progress(path, start).last_key() == ""


def test_replay_of_a_range_that_is_too_old_for_the_consumer_is_refused() -> None:
    with pytest.raises(Refusal, match="full-refresh"):
        replay(archive([line(1)]), FakeStream(), Selection(NOW - timedelta(days=81), NOW), label="r")
    old = lines_object("events", [line(1)], NOW - timedelta(days=81))
    by_prefix = Selection(EVER, NOW, prefix="events/")
    with pytest.raises(Refusal, match="80 days"):
        replay(FakeArchive({old.key: old.body}), FakeStream(), by_prefix, label="r")


def test_object_deleted_during_a_replay_is_skipped() -> None:
    objects = archive([line(1)], [line(2)])
    gone = next(iter(objects.bodies))
    stream = FakeStream()
    listed = list(objects.received("events/", NOW, NOW))
    objects.received = lambda *_: iter(listed)
    del objects.bodies[gone]
    assert replay(objects, stream, EVERYTHING, label="r").objects == 1


FOREIGN = ("events/by-hand.ndjson", f"events/dt={NOW:%Y-%m-%d}/hh={NOW:%H}/repaired.ndjson.gz")


@pytest.mark.parametrize("name", FOREIGN, ids=["outside any hour", "in its hour"])
@pytest.mark.parametrize(
    "packed", [lambda text: text, lambda text: gzip.compress(text, mtime=0)], ids=["plain", "gzip"]
)
def test_object_with_a_custom_key_is_replayed(name: str, packed: Callable[[bytes], bytes]) -> None:
    objects = FakeArchive({name: packed(b"\xef\xbb\xbf" + line(1) + b"\r\n\n" + line(2)), "events/": b""})
    stream = FakeStream()
    done = replay(objects, stream, Selection(EVER, NOW, prefix="events/"), label="r")
    assert [json.loads(r.data)["_id"] for r in stream.taken] == ["e1", "e2"]
    assert (done.objects, done.unreadable) == (1, [])


@pytest.mark.parametrize(
    "body", [b"", gzip.compress(line(1), mtime=0), b"\x1f\x8bnot gzip"], ids=["empty", "short", "torn"]
)
def test_replay_reports_an_object_that_is_damaged_or_lacks_lines(body: bytes) -> None:
    made = lines_object("events", [line(1), line(2)], NOW)
    done = replay(FakeArchive({made.key: body}), FakeStream(), EVERYTHING, label="r")
    assert done.unreadable == [made.key]


def test_object_of_rejected_events_is_never_replayed() -> None:
    made = lines_object("rejected", [line(1)], NOW)
    objects = FakeArchive({made.key: made.body, "rejected/by-hand.ndjson": line(1)})
    assert replay(objects, FakeStream(), Selection(EVER, NOW, prefix="rej"), label="r").sent == 0


def test_replay_lists_unreadable_objects_and_lines_and_sends_the_rest() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    no_fence = line(7).replace(b'"geofence"', b'"x"')
    odd_type = line(8).replace(b'"user.entered_geofence"', b"[1]")
    objects = archive([line(1)], [b"oops", line(2), deep, b"[]", no_fence, odd_type])
    whole, mixed = objects.bodies
    corrupt = archive([line(3)])
    [torn] = corrupt.bodies
    objects.bodies[torn] = corrupt.bodies[torn][:-12]
    stream = FakeStream()
    done = replay(objects, stream, EVERYTHING, label="r")
    assert sorted(json.loads(r.data)["_id"] for r in stream.taken) == ["e1", "e2"]
    assert sorted(done.unreadable) == sorted([torn, *(f"{mixed} line {n}" for n in (1, 3, 4, 5))])
    assert lines_again(objects, FakeStream(), [(torn, 1), (mixed, 2), (whole, 1)], "r", Pace(1e9)) == 2


def test_throttled_records_are_sent_again() -> None:
    stream = FakeStream(refuses=2)
    assert put_all([StreamRecord("d", line(1), 1)], stream, Pace(1e9)) == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RetryableError("Kinesis: AccessDeniedException"), "did not accept 1 record: Kinesis: AccessDenied"),
        (None, "did not accept 1 record: it throttles, or has"),
        (PermanentError("Kinesis: ValidationException"), "rejected 1 record"),
    ],
)
def test_replay_stops_and_names_the_cause_if_the_stream_keeps_failing(
    error: Exception | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_to_stream, "STREAM_TIMEOUT_S", 0.1)

    class Down(FakeStream):
        def put(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
            if error:
                raise error
            return list(records)

    with pytest.raises(Refusal, match=f"the stream {why}"):
        put_all([StreamRecord("d", line(1), 1)], Down(), Pace(1e9))


def test_replay_rate_limit_holds_over_several_calls() -> None:
    pace, began = Pace(1000), time.monotonic()
    for _ in range(5):
        pace.wait_for(60)
    assert 0.2 < time.monotonic() - began < 1


def test_only_the_given_lines_of_an_object_are_sent_again() -> None:
    objects = archive([line(1), PLAIN, line(2), line(3)])
    [key] = objects.bodies
    stream = FakeStream()
    assert lines_again(objects, stream, [(key, 3), (key, 1), ("events/gone", 1)], "r", Pace(1e9)) == 2
    assert [r.line for r in stream.taken] == [1, 3]


@pytest.mark.parametrize("as_text", [True, False], ids=["as AWS writes it", "as LocalStack writes it"])
def test_discarded_batches_are_read_from_lambdas_invocation_record(as_text: bool) -> None:
    record = {"kinesis": {"partitionKey": "d1", "data": base64.b64encode(line(1)).decode()}}
    request = {"Records": [record]}
    kept = {"version": "1.0", "KinesisBatchInfo": {}, "payload": json.dumps(request) if as_text else request}
    key = "aws/lambda/mapping/shardId-0/2026/11/22/x"
    [(found, records)] = given_up(FakeArchive({key: json.dumps(kept).encode()}))
    assert found == key
    assert [(r.partition_key, r.data) for r in records] == [("d1", line(1))]


def given_up_archive(*records: bytes) -> FakeArchive:
    """Return an archive with one discarded batch, in the format of Lambda's invocation record."""
    found = [{"kinesis": {"partitionKey": "d1", "data": base64.b64encode(data).decode()}} for data in records]
    kept = {"version": "1.0", "KinesisBatchInfo": {}, "payload": json.dumps({"Records": found})}
    return FakeArchive({"aws/lambda/mapping/shardId-0/2026/11/22/x": json.dumps(kept).encode()})


def test_discarded_events_are_labelled_and_records_of_other_producers_are_unchanged() -> None:
    aggregate, stream = b"\xf3\x89\x9a\xc2 of another library", FakeStream()
    kept = given_up_archive(line(1), aggregate, b"[7]", line(2) + b"\n")
    done = replay_given_up(kept, stream, "r1", Pace(1e9))
    assert (done["sent"], done["would_send"], done["label"]) == (4, 0, "r1")
    assert json.loads(stream.taken[0].data)[LABEL] == "r1"
    assert [r.data for r in stream.taken[1:]] == [aggregate, b"[7]", line(2) + b"\n"]


def test_dry_run_of_discarded_batches_counts_their_records() -> None:
    done = replay_given_up(given_up_archive(line(1), line(2)), None, "r1", Pace(1))
    assert (done["sent"], done["would_send"], done["label"]) == (0, 2, None)


@pytest.mark.parametrize("body", [b"torn {", b"[1]", b'{"payload": null}', b'{"payload": {"Records": [{}]}}'])
def test_unreadable_object_does_not_stop_the_replay_of_discarded_batches(body: bytes) -> None:
    kept, stream = given_up_archive(line(1)), FakeStream()
    kept.bodies |= {"aws/lambda/": b"", "aws/lambda/a": body}
    done = replay_given_up(kept, stream, "r1", Pace(1e9))
    assert (done["sent"], done.get("unreadable")) == (1, ["aws/lambda/a"])


def test_replay_sends_only_events_of_the_stages_geofence_types() -> None:
    stream = FakeStream()
    own = replace(EVERYTHING, kinds={"fence.crossed_in": "enter"})
    replay(archive([line(1), line(2, "fence.crossed_in"), PLAIN]), stream, own, label="r")
    assert [json.loads(r.data)["_id"] for r in stream.taken] == ["e2"]
    [key] = (kept := archive([line(1), line(2, "fence.crossed_in")])).bodies
    assert lines_again(kept, FakeStream(), [(key, 1), (key, 2)], "r", Pace(1e9), own.kinds) == 1
