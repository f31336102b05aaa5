"""Forget users in the whole archive: remove every event of a list of user ids, object by object; can be resumed.

    python -m glue.forget --archive s3://BUCKET --users ids.txt --request 2026-11-22-a [--engine spark]
    … load the new objects, then delete the RAW rows of the old ones with the SQL that the command prints …
    python -m glue.forget --archive s3://BUCKET --users ids.txt --request 2026-11-22-a --finish

The first run writes each object that contains such events again without them, under the key of its new content in
the same hour, and records old and new key in the plan, forget/<request>/plan.json. It deletes nothing: Snowpipe must
load the new objects before the old rows are deleted, otherwise the warehouse would lack other users' events.
`--finish` checks that every new object exists, deletes all versions of the old ones, and compacts their hours again.
The list of ids is not stored. The plan holds its hash, so that both runs must use the same list.

Searched prefixes: events/ (`user.userId`, `user._id`, a top-level `userId`); rejected/ and set-aside/ (the same
fields of the contained event, or any occurrence if the content is no event); aws/lambda/ (any occurrence).
Not covered: DynamoDB items expire after 90 days; Kinesis, Time Travel and Fail-safe keep data for their retention.
"""

import argparse
import base64
import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from contract.objects import Prefix, hour_of, is_content, lines_object, object_name, prefix_of
from glue.archive import MAX_INFLATED_BYTES, READERS, Fault, Hours, Lines, Store, Stored, read_object
from glue.compact import compact_with_duckdb, stale, sweep
from glue.jobs import add_archive, arguments, choose_engine, parser_of, report
from snowpipe.quoting import quoted

PREFIX = "forget"
SEARCHED_PREFIXES: tuple[Prefix, ...] = ("events", "rejected", "set-aside")
INVOCATION_RECORDS = "aws/lambda/"
INFLATE_STEP = 1024  # compressed bytes; a gzip bomb can exceed the limit by at most a thousand times this
FAR_FUTURE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Rewritten:
    """An object that contained events of the users. `new` is None if nothing else was in it."""

    old: str
    new: str | None
    lines_before: int
    lines_after: int


@dataclass(frozen=True)
class Users:
    """The ids to forget, with a fast check that rules most lines out and an exact one for the rest."""

    ids: frozenset[str]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(sorted(self.ids)).encode()).hexdigest()

    def mentioned(self, text: bytes) -> bool:
        """Return whether these bytes may contain an id. A backslash counts, because escapes can hide one."""
        return b"\\" in text or any(each.encode() in text for each in self.ids)

    def owns(self, event: object) -> bool:
        """Return whether the event belongs to one of the users."""
        if not isinstance(event, dict):
            return False
        user = event.get("user")
        named = [event.get("userId"), user]
        if isinstance(user, dict):
            named += [user.get("userId"), user.get("_id")]
        # A rejected event may have a number in place of a string.
        return any(isinstance(each, str | int) and str(each) in self.ids for each in named)

    def in_line(self, line: bytes) -> bool:
        """Return whether a line of events/, rejected/ or set-aside/ concerns one of the users."""
        if not self.mentioned(line) and b"_base64" not in line:
            return False
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            return self.in_bytes(line)
        if not isinstance(value, dict):
            return False
        event = value.get("event", {})
        if self.owns(value) or self.owns(event):
            return True
        # A rejected value need not be an object, and a valid event may have a field named "event".
        is_event = "_id" in value or isinstance(event, dict | None)
        if not is_event and self.in_bytes(json.dumps(event, allow_nan=False).encode()):
            return True
        encoded = [value.get(name) for name in ("body_base64", "record_base64")]
        return any(isinstance(each, str) and self.in_bytes(_decoded(each)) for each in encoded)

    def in_bytes(self, text: bytes) -> bool:
        """Return whether an id occurs in the text: as is, in gzipped content, or written with JSON escapes."""
        texts = [text, _inflated(text)]
        with suppress(ValueError, RecursionError):
            texts.append(
                json.dumps(json.loads(texts[1] or text), ensure_ascii=False, allow_nan=False).encode(
                    errors="replace"
                )
            )
        return any(each.encode() in text for text in texts for each in self.ids)


def _inflated(text: bytes) -> bytes:
    """Inflate as much of every gzip member as possible, because a body may be truncated. b"" if it is no gzip."""
    found = bytearray()
    while text.startswith(b"\x1f\x8b") and len(found) <= MAX_INFLATED_BYTES:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        with suppress(zlib.error):
            for start in range(0, len(text), INFLATE_STEP):
                found += member.decompress(text[start : start + INFLATE_STEP])
                if member.eof or len(found) > MAX_INFLATED_BYTES:
                    break
        text = member.unused_data + text[start + INFLATE_STEP :] if member.eof else b""
    return bytes(found)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return text.encode()


def rewrite(store: Store, users: Users, stored: Stored) -> Rewritten | Fault | None:
    """Write an object again without the users' lines; None if it has none. Repeating it gives the same key."""
    if stored.key.startswith(INVOCATION_RECORDS):
        return _rewrite_invocation_record(store, users, stored)
    if object_name(stored.key) is None:
        return _rewrite_foreign(store, users, stored)
    read = read_object(store, stored)
    if isinstance(read, Fault):
        return read
    rest = [line for line in read.lines if not users.in_line(line)]
    if len(rest) == len(read.lines):
        return None
    return Rewritten(stored.key, _put(store, read, rest), len(read.lines), len(rest))


def _put(store: Store, read: Lines, rest: Sequence[bytes]) -> str | None:
    if not rest:
        return None
    name = object_name(read.stored.key)
    assert name is not None
    made = lines_object(name.prefix, rest, name.hour)
    store.write(made.key, made.body)
    return made.key


def _rewrite_foreign(store: Store, users: Users, stored: Stored) -> Rewritten | Fault | None:
    """Rewrite an object that Milkrun did not write, such as a file repaired by hand.

    It may be plain or gzipped, NDJSON or one array: Snowpipe loads each of them. If it is not JSON and contains an
    id, the whole object is deleted.
    """
    try:
        body = store.read(stored.key)
    except Exception as error:
        return Fault(stored.key, "unreadable_object", f"{type(error).__name__}: {error}", permanent=False)
    text = body
    if body.startswith(b"\x1f\x8b"):
        try:
            text = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            return Fault(stored.key, "corrupt_gzip", str(error), beginning=body[:1024])
    try:
        lines = _json_lines(text.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, RecursionError):
        return Rewritten(stored.key, None, 1, 0) if users.in_bytes(text) else None
    rest = [line for line in lines if not users.in_line(line)]
    prefix = prefix_of(stored.key)
    if len(rest) == len(lines) or prefix is None:
        return None
    if not rest:
        return Rewritten(stored.key, None, len(lines), 0)
    made = lines_object(prefix, rest, hour_of(stored.key) or stored.modified_at)
    store.write(made.key, made.body)
    return Rewritten(stored.key, made.key, len(lines), len(rest))


def lines_in(body: bytes) -> list[bytes]:
    """Return the lines of an object that `rewrite` has replaced; [] if it is not JSON."""
    text = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
    try:
        return _json_lines(text.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, RecursionError):
        return []


def _json_lines(text: bytes) -> list[bytes]:
    """Return the values of NDJSON, or of one JSON array, one per line. Raises DecodeError."""
    try:
        return [
            msgspec.json.format(bytes(raw), indent=-1)
            for raw in msgspec.json.decode(text, type=list[msgspec.Raw])
        ]
    except msgspec.DecodeError:
        lines = [line for line in text.split(b"\n") if line.strip()]
        for line in lines:
            msgspec.json.decode(line)
        return [line.strip() for line in lines]


def _rewrite_invocation_record(store: Store, users: Users, stored: Stored) -> Rewritten | Fault | None:
    """Delete a Lambda invocation record, which holds a batch of Kinesis records in base64, if it contains an id.

    Nothing is lost with the whole object, because its events are in events/ as well.
    """
    try:
        body = store.read(stored.key)
    except Exception as error:
        return Fault(stored.key, "unreadable_object", f"{type(error).__name__}: {error}", permanent=False)
    texts = [body]
    # If the object has another form, its own text is still searched.
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        # The payload is the function's request, encoded as a string.
        request = json.loads(body)["payload"]
        request = json.loads(request) if isinstance(request, str) else request
        texts += [_decoded(each["kinesis"]["data"]) for each in request["Records"]]
    if not any(map(users.in_bytes, texts)):
        return None
    return Rewritten(stored.key, None, len(texts) - 1, 0)


# --- both engines -------------------------------------------------------------------------------------------


def candidates(store: Store, hours: Hours | None = None) -> Iterator[Stored]:
    """Return the objects in all searched prefixes, of the given hours if any."""
    for prefix in (*SEARCHED_PREFIXES, INVOCATION_RECORDS.rstrip("/")):
        for stored in store.list(f"{prefix}/"):
            if not is_content(stored.key, stored.size):
                continue
            name = object_name(stored.key)
            if hours is None or name is None or hours.start <= name.hour < hours.end:
                yield stored


Found = Rewritten | Fault


def with_threads(store: Store, users: Users, objects: Iterable[Stored]) -> list[Found]:
    with ThreadPoolExecutor(READERS) as pool:
        return [each for each in pool.map(partial(rewrite, store, users), objects) if each is not None]


def with_spark(spark: Any, store: Store, users: Users, objects: Sequence[Stored]) -> list[Found]:
    from glue.spark_objects import slices

    tasks = slices(objects, spark.sparkContext.defaultParallelism)
    working: Callable[[list[Stored]], list[Found]] = partial(with_threads, store, users)
    found: list[Found] = spark.sparkContext.parallelize(tasks, max(1, len(tasks))).flatMap(working).collect()
    return found


# --- the two runs -------------------------------------------------------------------------------------------


def plan_key(request: str) -> str:
    return f"{PREFIX}/{request}/plan.json"


def begin(store: Store, request: str, users: Users, found: Sequence[Found]) -> dict[str, Any]:
    """Write the plan. If it exists, add to it, so that objects found by an earlier run are still deleted."""
    pairs: dict[str, dict[str, object]] = {}
    if any(each.key == plan_key(request) for each in store.list(plan_key(request))):
        earlier = json.loads(store.read(plan_key(request)))
        if earlier["users_sha256"] != users.digest:
            raise ValueError(f"Request {request!r} was made for other users. Choose another --request name.")
        pairs = {pair["old"]: pair for pair in earlier["objects"]}
    pairs |= {each.old: asdict(each) for each in found if isinstance(each, Rewritten)}
    faults = [each for each in found if isinstance(each, Fault)]
    plan = {
        "request": request,
        "users_sha256": users.digest,
        "objects": [pairs[old] for old in sorted(pairs)],
        "unreadable": [{"key": f.key, "code": f.code, "message": f.message} for f in faults],
    }
    store.write(plan_key(request), json.dumps(plan, indent=1, allow_nan=False).encode())
    return plan


def warehouse_sql(plan: dict[str, Any], database: str = "MILKRUN") -> list[str]:
    """Return the statements that delete the old objects' rows, to be run after the new ones are loaded."""
    statements = []
    for table, prefix in (("EVENTS", "events/"), ("REJECTED", "rejected/")):
        names = [pair["old"] for pair in plan["objects"] if pair["old"].startswith(prefix)]
        for start in range(0, len(names), 1000):
            # Keys of objects that Milkrun did not write may contain quotes.
            listed = ", ".join(quoted(name) for name in names[start : start + 1000])
            statements.append(f"DELETE FROM {database}.RAW.{table} WHERE file_name IN ({listed});")
    return statements


class NotReady(Exception):
    """A new object does not exist, so nothing is deleted."""


def finish(store: Store, plan: dict[str, Any]) -> int:
    """Delete the old objects if every new one exists, and compact their hours again."""
    delete_old(store, plan["objects"])
    compact_again(store, plan["objects"])
    return len(plan["objects"])


def delete_old(store: Store, pairs: Sequence[dict[str, Any]]) -> None:
    for pair in pairs:
        if pair["new"] is not None and not any(each.key == pair["new"] for each in store.list(pair["new"])):
            raise NotReady(f"{pair['new']} does not exist. Run the command without --finish first.")
    store.delete([pair["old"] for pair in pairs])


def compact_again(store: Store, pairs: Iterable[dict[str, Any]]) -> None:
    """Compact the hours again if they had been compacted, and delete the previous Parquet files."""
    names = (object_name(pair["old"]) for pair in pairs)
    for hour in sorted({name.hour for name in names if name and name.prefix == "events"}):
        hours = Hours(hour, hour + timedelta(hours=1))
        if any(store.list(f"compacted/_manifests/dt={hour:%Y-%m-%d}/hh={hour:%H}")):
            list(compact_with_duckdb(store, stale(store, hours)))
            sweep(store, hours, FAR_FUTURE, timedelta(0))


def main(argv: Sequence[str]) -> int:
    parser = parser_of("forget", __doc__)
    add_archive(parser)
    parser.add_argument("--users", required=True, type=Path, help="file with one user id per line")
    parser.add_argument("--request", required=True, help="name of the plan, the same in both runs")
    parser.add_argument(
        "--finish", action="store_true", help="delete the old objects; run it after the new ones are loaded"
    )
    parser.add_argument(
        "--engine", choices=["auto", "duckdb", "spark"], default="auto", help="duckdb runs on this machine"
    )
    given = arguments(parser, argv)
    store = given.store
    try:
        named = given.users.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"cannot read {given.users}: {error}")
    users = Users(frozenset(line.strip() for line in named if line.strip()))
    if not users.ids:
        parser.error(f"{given.users} contains no user ids")
    try:
        if given.finish:
            plan = json.loads(store.read(plan_key(given.request)))
            if plan["users_sha256"] != users.digest:
                parser.error(f"request {given.request!r} was made for other users")
            report("users_forgotten", request=given.request, objects=finish(store, plan))
            return 0
        objects = list(candidates(store))
        found = _rewrite_all(given, store, users, objects)
        plan = begin(store, given.request, users, found)
    except (NotReady, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 2
    pairs = plan["objects"]
    report(
        "users_to_forget",
        request=given.request,
        looked_at=len(objects),
        objects=len(pairs),
        lines=sum(pair["lines_before"] - pair["lines_after"] for pair in pairs),
        unreadable=len(plan["unreadable"]),
        sql=warehouse_sql(plan),
    )
    return 1 if plan["unreadable"] else 0


def _rewrite_all(
    given: argparse.Namespace, store: Store, users: Users, objects: Sequence[Stored]
) -> list[Found]:
    if choose_engine(given.engine, objects) == "duckdb":
        return with_threads(store, users, objects)
    from glue.session import session

    with session("milkrun-forget", given.master) as spark:
        return with_spark(spark, store, users, objects)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
