"""Delete all events of the given users or devices from the archive. An interrupted run can be repeated.

    python -m glue.forget --archive s3://BUCKET --users ids.txt --request 2026-11-22-a [--engine spark]
    … load the new objects, then delete the RAW rows of the old ones with the SQL that the command prints …
    python -m glue.forget --archive s3://BUCKET --request 2026-11-22-a --finish

The first run reads every event to find the users' devices and other ids (glue/person.py). It rewrites each object
that contains the users' events: the remaining lines are stored in the same hour under the key of the new content,
and the plan, forget/<request>/plan.json, records the old and the new key. The first run deletes nothing, because
Snowpipe must load the new objects before the old rows are deleted; otherwise the warehouse would lack other
users' events. `--finish` checks that the new objects exist, deletes all versions of the old ones, and compacts their
hours again.

A plan contains object keys and line numbers, but neither ids nor hashes of ids. Therefore it does not reveal whose
events were deleted, and `--finish` needs no list of ids.

Searched prefixes: events/, rejected/, set-aside/ and aws/lambda/. In a body or record that cannot be read as an
event, any occurrence of an id as a whole word counts as a match. Not covered here: DynamoDB, Kinesis, rebuilt/,
streamed/, noncurrent versions of other objects, and the warehouse. `milkrun forget` covers these too, except
Kinesis, whose records cannot be deleted and expire.
"""

import argparse
import base64
import gzip
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from contract.archive_object import (
    Prefix,
    hour_folder,
    hour_of,
    is_content,
    lines_object,
    object_name,
    prefix_of,
)
from glue.archive import Fault, Hours, Store, Stored, T, in_threads, read_object
from glue.compact import compact_with_duckdb, stale, sweep
from glue.jobs import add_archive, arguments, choose_engine, exit_code, name_in_key, parser_of, report
from glue.person import Names, Subject, follow, in_line, names_in_line
from snowpipe.quoting import quoted

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PREFIX = "forget"
SEARCHED_PREFIXES: tuple[Prefix, ...] = ("events", "rejected", "set-aside")
INVOCATION_RECORDS = "aws/lambda/"
_REST = re.compile(r"\.rest-[0-9a-f]{16}$")
FAR_FUTURE = datetime.max.replace(tzinfo=UTC)

Plan = dict[str, Any]  # as stored in JSON


class Replaced(TypedDict):
    """An entry of a plan: the keys of an object before and after its rewrite. `new` is None if no line remained."""

    old: str
    new: str | None


@dataclass(frozen=True)
class Rewritten:
    """The result of rewriting an object. `new` is None if the whole object must be deleted.

    `removed` holds the 1-based line numbers of the subject's events (in an invocation record, their record numbers).
    """

    old: str
    new: str | None
    lines_before: int
    lines_after: int
    removed: tuple[int, ...] = ()


# The result of rewriting an object, and the bytes to be stored under its new key, if there is one.
_Rest = tuple[Rewritten, bytes | None]


@dataclass(frozen=True)
class _Split:
    rest: list[bytes]
    removed: tuple[int, ...]


def _split(subject: Subject, lines: Sequence[bytes]) -> _Split:
    removed = tuple(number for number, line in enumerate(lines, 1) if in_line(subject, line))
    return _Split([line for number, line in enumerate(lines, 1) if number not in set(removed)], removed)


def rewrite(store: Store, subject: Subject, stored: Stored) -> Rewritten | Fault | None:
    """Rewrite an object without the subject's lines. Returns None if the object contains none of them.

    An object that Milkrun did not write, such as a file repaired by hand, may be plain or gzipped, and contain NDJSON,
    indented JSON or one JSON array, because Snowpipe loads all of these. If an object that is not JSON contains an id,
    `new` is None, so that the whole object will be deleted.
    """
    rest = _rest_of(store, subject, stored)
    if not isinstance(rest, tuple):
        return rest
    rewritten, body = rest
    if rewritten.new is not None and body is not None:
        store.write(rewritten.new, body)
    return rewritten


def contains(store: Store, subject: Subject, stored: Stored) -> bool:
    """Return whether an object contains data of the subject; store nothing. False if it cannot be read."""
    return isinstance(_rest_of(store, subject, stored), tuple)


def _rest_of(store: Store, subject: Subject, stored: Stored) -> _Rest | Fault | None:
    """Return the object without the subject's lines, but store nothing. None means that it contains none of them."""
    if stored.key.startswith(INVOCATION_RECORDS):
        return _rest_of_invocation_record(store, subject, stored)
    read = lines_of_object(store, stored)
    if isinstance(read, Fault):
        return read
    if isinstance(read, bytes):
        return (Rewritten(stored.key, None, 1, 0, (1,)), None) if subject.in_bytes(read) else None
    split, prefix = _split(subject, read), prefix_of(stored.key)
    if not split.removed or prefix is None:
        return None
    if not split.rest:
        return Rewritten(stored.key, None, len(read), 0, split.removed), None
    name = object_name(stored.key)
    hour = name.hour if name else hour_of(stored.key) or stored.modified_at
    made = lines_object(prefix, split.rest, hour)
    return Rewritten(stored.key, made.key, len(read), len(split.rest), split.removed), made.body


def lines_of_object(store: Store, stored: Stored) -> Sequence[bytes] | bytes | Fault:
    """Return an object's lines, its text if it is not JSON, or the fault if it cannot be read."""
    if object_name(stored.key) is not None:
        read = read_object(store, stored)
        return read if isinstance(read, Fault) else read.lines
    try:
        body = store.read(stored.key)
        text = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
    except (OSError, EOFError, zlib.error) as error:
        return Fault(stored.key, "corrupt_gzip", str(error), beginning=body[:1024])
    except Exception as error:
        return Fault(stored.key, "unreadable_object", f"{type(error).__name__}: {error}", permanent=False)
    try:
        return _json_lines(text.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return text


def _json_lines(text: bytes) -> list[bytes]:
    """Return the JSON text of each value in one JSON array, in NDJSON, or in indented JSON, as `jq` prints it.

    Raises ValueError or RecursionError if the text is none of these.
    """
    try:
        return [
            msgspec.json.format(bytes(raw), indent=-1)
            for raw in msgspec.json.decode(text, type=list[msgspec.Raw])
        ]
    except msgspec.DecodeError:
        pass
    lines = [line for line in text.split(b"\n") if line.strip()]
    try:
        for line in lines:
            msgspec.json.decode(line)
        return [line.strip() for line in lines]
    except msgspec.DecodeError:
        return [msgspec.json.format(value, indent=-1).encode() for value in _json_values(text.decode())]


def _json_values(text: str) -> Iterator[str]:
    """Yield the text of each JSON value. Raises ValueError or RecursionError if the text is not JSON."""
    decoder, end = json.JSONDecoder(), 0
    while begin := re.compile(r"[^ \t\r\n]").search(text, end):
        _, end = decoder.raw_decode(text, begin.start())
        yield text[begin.start() : end]


def _rest_of_invocation_record(store: Store, subject: Subject, stored: Stored) -> _Rest | Fault | None:
    """Return a Lambda invocation record, which holds a batch of Kinesis records, without the subject's records."""
    try:
        body = store.read(stored.key)
    except Exception as error:
        return Fault(stored.key, "unreadable_object", f"{type(error).__name__}: {error}", permanent=False)
    try:
        kept = json.loads(body)
        # The payload is the function's request, encoded as a string.
        is_text = isinstance(kept["payload"], str)
        request = json.loads(kept["payload"]) if is_text else kept["payload"]
        records = request["Records"]
        removed = tuple(n for n, record in enumerate(records, 1) if _in_record(subject, record["kinesis"]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return (Rewritten(stored.key, None, 1, 0, (1,)), None) if subject.in_bytes(body) else None
    if not removed:
        return None
    rest = [record for number, record in enumerate(records, 1) if number not in removed]
    if not rest:
        return Rewritten(stored.key, None, len(records), 0, removed), None
    request["Records"] = rest
    kept["payload"] = json.dumps(request, allow_nan=False) if is_text else request
    text = json.dumps(kept, allow_nan=False).encode()
    new = f"{_REST.sub('', stored.key)}.rest-{hashlib.sha256(text).hexdigest()[:16]}"
    return Rewritten(stored.key, new, len(records), len(rest), removed), text


def _in_record(subject: Subject, record: Mapping[str, str]) -> bool:
    try:
        data = base64.b64decode(record["data"])
    except ValueError:
        data = str(record["data"]).encode()
    return in_line(subject, data) or subject.owns_record(
        record.get("partitionKey"), names_in_line(subject, data)
    )


# --- both engines -------------------------------------------------------------------------------------------


def candidates(store: Store, hours: Hours | None = None) -> Iterator[Stored]:
    """Yield the objects under all searched prefixes, except objects with Milkrun's keys from hours outside `hours`."""
    for prefix in (*SEARCHED_PREFIXES, INVOCATION_RECORDS.rstrip("/")):
        for stored in store.list(f"{prefix}/"):
            if not is_content(stored.key, stored.size):
                continue
            name = object_name(stored.key)
            if hours is None or name is None or hours.start <= name.hour < hours.end:
                yield stored


Found = Rewritten | Fault


def seen_in(store: Store, subject: Subject, stored: Stored) -> set[Names]:
    """Return the distinct `Names` of an object's events; none if it is an invocation record, unreadable or not JSON."""
    if stored.key.startswith(INVOCATION_RECORDS):  # the same events are also under events/
        return set()
    read = lines_of_object(store, stored)
    return set() if isinstance(read, bytes | Fault) else {names_in_line(subject, line) for line in read}


def all_seen(store: Store, subject: Subject, objects: Iterable[Stored]) -> list[Names]:
    seen: set[Names] = set()
    for names in in_threads(partial(seen_in, store, subject), objects):
        seen |= names
    return list(seen)


def with_threads(store: Store, subject: Subject, objects: Iterable[Stored]) -> list[Found]:
    return [each for each in in_threads(partial(rewrite, store, subject), objects) if each is not None]


def with_spark(
    spark: "SparkSession", objects: Sequence[Stored], work: Callable[[list[Stored]], list[T]]
) -> list[T]:
    from glue.spark_objects import slices

    tasks = slices(objects, spark.sparkContext.defaultParallelism)
    found: list[T] = spark.sparkContext.parallelize(tasks, max(1, len(tasks))).flatMap(work).collect()
    return found


# --- the two runs -------------------------------------------------------------------------------------------


def plan_key(request: str) -> str:
    return f"{PREFIX}/{request}/plan.json"


def begin(store: Store, request: str, found: Sequence[Found]) -> Plan:
    """Write the plan and return it.

    An existing plan is extended, so that objects found by an earlier run are still deleted.
    """
    pairs: dict[str, dict[str, object]] = {}
    if exists(store, plan_key(request)):
        earlier = json.loads(store.read(plan_key(request)))
        pairs = {pair["old"]: pair for pair in earlier["objects"]}
    pairs |= {each.old: asdict(each) for each in found if isinstance(each, Rewritten)}
    faults = [each for each in found if isinstance(each, Fault)]
    plan = {
        "request": request,
        "objects": [pairs[old] for old in sorted(pairs)],
        "unreadable": [{"key": f.key, "code": f.code, "message": f.message} for f in faults],
    }
    write_plan(store, plan)
    return plan


def write_plan(store: Store, plan: Plan) -> None:
    store.write(plan_key(plan["request"]), json.dumps(plan, indent=1, allow_nan=False).encode())


def warehouse_sql(plan: Plan, database: str = "MILKRUN") -> list[str]:
    """Return the SQL that deletes the old objects' rows from RAW, to be run after the new objects are loaded."""
    statements = []
    for table, prefix in (("EVENTS", "events/"), ("REJECTED", "rejected/")):
        names = [pair["old"] for pair in plan["objects"] if pair["old"].startswith(prefix)]
        for start in range(0, len(names), 1000):
            # Keys of objects that Milkrun did not write may contain quotes.
            listed = ", ".join(quoted(name) for name in names[start : start + 1000])
            statements.append(f"DELETE FROM {database}.RAW.{table} WHERE file_name IN ({listed});")
    return statements


class NotReady(Exception):
    """Raised, before anything is deleted, if a new object or a plan does not exist, another request is unfinished, or
    the list lacks ids of an earlier run.
    """


def exists(store: Store, key: str) -> bool:
    return any(each.key == key for each in store.list(key))


def refuse_unfinished(store: Store, request: str, objects: Iterable[Stored]) -> None:
    """Raise NotReady if the plan of another, unfinished request replaces one of these objects.

    If this request rewrote such an object, the new object would still contain events that the other request removes.
    """
    present = {each.key for each in objects}
    for plan in sorted(each.key for each in store.list(f"{PREFIX}/")):
        if not plan.endswith("/plan.json") or plan == plan_key(request):
            continue
        if any(pair["old"] in present for pair in json.loads(store.read(plan))["objects"]):
            raise NotReady(
                f"{plan} is not finished, and the objects that it replaces may contain this request's events. Run "
                "the command for that request with --finish first."
            )


def finish(store: Store, plan: Plan) -> int:
    """Delete the plan's old objects, and compact their hours again; return the number of old objects.

    Raises NotReady if a new object does not exist although its old object still does.
    """
    delete_old(store, plan["objects"])
    compact_again(store, plan["objects"])
    return len(plan["objects"])


def delete_old(store: Store, pairs: Sequence[Replaced]) -> None:
    for pair in pairs:
        # If the old object no longer exists, the new one may be missing because a later request replaced it.
        if pair["new"] is not None and not exists(store, pair["new"]) and exists(store, pair["old"]):
            raise NotReady(f"{pair['new']} does not exist. Run the command without --finish first.")
    store.delete([pair["old"] for pair in pairs])


def compact_again(store: Store, pairs: Iterable[Replaced]) -> None:
    """Compact the objects' hours again if they had already been compacted, and delete their previous Parquet files."""
    names = (object_name(pair["old"]) for pair in pairs)
    for hour in sorted({name.hour for name in names if name and name.prefix == "events"}):
        hours = Hours(hour, hour + timedelta(hours=1))
        if any(store.list(f"compacted/_manifests/{hour_folder(hour)}")):
            list(compact_with_duckdb(store, stale(store, hours)))
        # Sweep even without a manifest, because an interrupted compaction leaves files that no manifest names.
        sweep(store, hours, FAR_FUTURE, timedelta(0))


def refuse_missing_ids(store: Store, request: str, subject: Subject, objects: Iterable[Stored]) -> None:
    """Raise NotReady if this run would rewrite an object that the request's plan already replaces, and would keep a
    line that the plan removes.

    Must be called before `rewrite`. Otherwise, Snowpipe would load the objects that `rewrite` stores, although no plan
    names them.
    """
    if not exists(store, plan_key(request)):
        return
    earlier = {pair["old"]: pair["removed"] for pair in json.loads(store.read(plan_key(request)))["objects"]}
    again = (stored for stored in objects if stored.key in earlier)
    for rest in in_threads(partial(_rest_of, store, subject), again):
        if isinstance(rest, tuple) and not set(earlier[rest[0].old]) <= set(rest[0].removed):
            raise NotReady(
                f"{plan_key(request)} also covers ids that the given list lacks. Repeat the command with all ids of "
                "the request; otherwise some of their events would remain."
            )


def main(argv: Sequence[str]) -> int:
    parser = parser_of("forget", __doc__)
    add_archive(parser)
    parser.add_argument("--users", type=Path, help="file with one user id per line")
    parser.add_argument(
        "--devices",
        type=Path,
        help="file with one device id per line; all events of these devices are deleted",
    )
    parser.add_argument(
        "--request",
        type=name_in_key,
        required=True,
        help="name of the plan; use the same name with --finish",
    )
    parser.add_argument(
        "--finish",
        action="store_true",
        help="delete the old objects, in a second run after the new ones are loaded",
    )
    parser.add_argument(
        "--engine",
        choices=["auto", "duckdb", "spark"],
        default="auto",
        help="duckdb: threads on this machine, without Spark",
    )
    given = arguments(parser, argv)
    store = given.store
    try:
        if given.finish:
            if not exists(store, plan_key(given.request)):
                raise NotReady(
                    f"{plan_key(given.request)} does not exist. Run the command without --finish first."
                )
            plan = json.loads(store.read(plan_key(given.request)))
            unreadable = len(plan["unreadable"])
            report(
                "users_forgotten", request=given.request, objects=finish(store, plan), unreadable=unreadable
            )
            return 1 if unreadable else 0
        subject = Subject.of(_ids(parser, given.users), _ids(parser, given.devices))
        if not subject.ids:
            parser.error("no ids to forget: use --users FILE or --devices FILE, with one id per line")
        objects = list(candidates(store))
        refuse_unfinished(store, given.request, objects)
        seen, found = _both_passes(given, store, subject, objects)
        plan = begin(store, given.request, found)
    except NotReady as problem:
        print(problem, file=sys.stderr)
        return 2
    pairs = plan["objects"]
    report(
        "users_to_forget",
        request=given.request,
        looked_at=len(objects),
        objects=len(pairs),
        lines=sum(pair["lines_before"] - pair["lines_after"] for pair in pairs),
        own_devices=seen[0],
        shared_devices=seen[1],
        unreadable=len(plan["unreadable"]),
        sql=warehouse_sql(plan),
    )
    return 1 if plan["unreadable"] else 0


def _ids(parser: argparse.ArgumentParser, path: Path | None) -> list[str]:
    try:
        lines = path.read_text("utf-8-sig").split("\n") if path else []
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"cannot read {path}: {error}")
    return [line.strip() for line in lines if line.strip()]


def _both_passes(
    given: argparse.Namespace, store: Store, subject: Subject, objects: Sequence[Stored]
) -> tuple[tuple[int, int], list[Found]]:
    """Find the subject's other ids, then rewrite the objects.

    Returns the numbers of the subject's own and shared devices, and the result for each rewritten or unreadable
    object. Raises NotReady, before anything is written, if ids of an earlier run of the request are missing.
    """
    if choose_engine(given.engine, objects) == "duckdb":
        followed = follow(subject, all_seen(store, subject, objects))
        refuse_missing_ids(store, given.request, followed.subject, objects)
        found = with_threads(store, followed.subject, objects)
    else:
        from glue.session import session

        with session("milkrun-forget", given.master) as spark:
            followed = follow(subject, with_spark(spark, objects, partial(all_seen, store, subject)))
            refuse_missing_ids(store, given.request, followed.subject, objects)
            found = with_spark(spark, objects, partial(with_threads, store, followed.subject))
    return (len(followed.subject.own_devices), len(followed.shared)), found


if __name__ == "__main__" and (status := exit_code(main)):  # Glue may treat sys.exit(0) as a failure
    sys.exit(status)
