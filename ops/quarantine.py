"""`milkrun quarantine` and `milkrun replay --set-aside`: list, export, send again or delete quarantined records."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from aws.retry import send_until_done
from cli.counts import count
from cli.refusal import Refusal
from contract.archive_object import is_content
from ops import terminal
from ops.reachable_stores import require
from ops.read_stores import readable_lines
from ops.send_to_stream import RECORDS_AT_ONCE
from ops.stage_outputs import Client
from snowpipe.archive import Archive

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PREFIX = "set-aside/"
# PutRecords accepts 10 MiB per call. Records of other producers may be much larger than ours, 1 MiB or more.
BYTES_AT_ONCE = 5 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Aside:
    """A quarantined record. `lines` is the number of lines in its object, and `codes` are the reason codes."""

    key: str
    line: int
    lines: int
    codes: tuple[str, ...]
    data: bytes
    partition_key: str


class _Reason(msgspec.Struct):
    code: str


class _Line(msgspec.Struct):
    reasons: list[_Reason]
    origin: dict[str, str] = {}
    event: msgspec.Raw = msgspec.Raw()
    record_base64: bytes | None = None


def set_aside(s3: "S3Client", bucket: str, what: str, unreadable: list[str]) -> Iterator[Aside]:
    """Yield the quarantined records that `what` selects: a key prefix (`set-aside/…`), or a reason code.

    If an object cannot be read, an error is printed, and its key is added to `unreadable`.
    """
    is_prefix = what.startswith(PREFIX)
    archive = Archive(s3, bucket)
    for listed in archive.objects(what if is_prefix else PREFIX):
        key = listed.key
        body = archive.body(key) if is_content(key, listed.size) else None
        if body is None:  # a folder marker, an empty object, or deleted since it was listed
            continue
        try:
            lines = readable_lines(body, key)
            if lines is None:
                raise ValueError("it is damaged")
            found = [_aside(key, number, len(lines), line) for number, line in enumerate(lines, 1)]
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            terminal.fail(f"{key} cannot be read: {error}")
            unreadable.append(key)
            continue
        for aside in found:
            if is_prefix or what in aside.codes:
                yield aside


def put_back(
    kinesis: Client, stream: str, records: Iterable[Aside], pace: Callable[[int], object] = lambda _: None
) -> int:
    """Send records to the stream unchanged; return their number.

    Raises Refusal if the stream keeps throttling or failing, or rejects a record. Sending all records again does no
    harm.
    """

    def put(some: Sequence[tuple[int, Aside]]) -> list[int]:
        answer = kinesis.put_records(
            StreamName=stream, Records=[{"Data": r.data, "PartitionKey": r.partition_key} for _, r in some]
        )
        # PutRecords returns 200 even if single records were throttled, and lists results in request order.
        return [n for (n, _), result in zip(some, answer["Records"], strict=True) if "ErrorCode" in result]

    sent = 0
    for some in _requests(records):
        pace(len(some))
        numbered = {n: (n, record) for n, record in enumerate(some)}
        for failure in send_until_done(put, numbered, "Kinesis").values():
            raise Refusal(
                f"not all records could be sent to the stream ({count(sent, 'record')} sent, perhaps more): {failure}. "
                "Repeat the command: a record that is sent twice does no harm"
            )
        sent += len(some)
    return sent


def _requests(records: Iterable[Aside]) -> Iterator[list[Aside]]:
    """Group records into requests of at most RECORDS_AT_ONCE records and BYTES_AT_ONCE bytes."""
    some: list[Aside] = []
    size = 0
    for record in records:
        length = len(record.data) + len(record.partition_key.encode())
        if some and (len(some) == RECORDS_AT_ONCE or size + length > BYTES_AT_ONCE):
            yield some
            some, size = [], 0
        some.append(record)
        size += length
    if some:
        yield some


def write(path: Path, records: Iterable[Aside]) -> int:
    """Write the records to an NDJSON file, so that a person can repair them; return their number.

    Text that is not JSON becomes a JSON string. `milkrun send --file` sends the repaired file.
    """
    written = 0
    with path.open("wb") as file:
        for record in records:
            file.write(_line(record.data) + b"\n")
            written += 1
    return written


def replay(
    s3: "S3Client",
    kinesis: Client,
    *,
    bucket: str,
    stream: str,
    what: str,
    to_file: Path | None = None,
    dry_run: bool = False,
    pace: Callable[[int], object] = lambda _: None,
) -> dict[str, object]:
    """Send the selected records to the stream, write them to a file, or, for a dry run, only count them.

    Returns the numbers of found, written and sent records, the number of records per reason, and the keys of the
    objects that could not be read.
    """
    by_code: Counter[str] = Counter()
    unreadable: list[str] = []

    def counted() -> Iterator[Aside]:
        for record in terminal.counted(set_aside(s3, bucket, what, unreadable), "records"):
            by_code.update(record.codes)
            yield record

    written = sent = 0
    if dry_run:
        found = sum(1 for _ in counted())
    elif to_file:
        found = written = write(to_file, counted())
    else:
        found = sent = put_back(kinesis, stream, counted(), pace)
    facts: dict[str, object] = {"found": found, "written": written, "sent": sent, "by_reason": dict(by_code)}
    return facts | ({"unreadable": unreadable} if unreadable else {})


def purge(s3: "S3Client", bucket: str, records: Iterable[Aside]) -> tuple[int, list[str]]:
    """Delete the objects whose lines are all selected; return their number, and the keys of the objects that were kept.

    The bucket keeps old versions, so an object can be restored until its versions expire.
    """
    lines: dict[str, set[int]] = {}
    all_lines: dict[str, int] = {}
    for record in records:
        lines.setdefault(record.key, set()).add(record.line)
        all_lines[record.key] = record.lines
    shared = []
    for key, meant in lines.items():
        if all_lines[key] != len(meant):
            shared.append(key)
        else:
            s3.delete_object(Bucket=bucket, Key=key)
    return len(lines) - len(shared), shared


What = Annotated[
    str,
    typer.Argument(
        parser=terminal.not_empty,
        metavar="WHAT",
        help="Records to select: a key prefix such as set-aside/dt=2026-11-16, or a reason code. Default: all.",
        show_default=False,
    ),
]


def command(
    context: typer.Context,
    what: What = PREFIX,
    *,
    send: Annotated[bool, typer.Option("--send", hidden=True)] = False,
    to_delete: Annotated[bool, typer.Option("--purge", hidden=True)] = False,
    yes: Annotated[bool, typer.Option("--yes", hidden=True)] = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
    wide: terminal.Wide = False,
) -> None:
    """List the quarantined records.

    Exit code 1: the list is not empty, or an object could not be read.
    """
    if send and to_delete:
        raise typer.BadParameter("use --send or --purge, not both")
    outputs = terminal.outputs_of(context, stage)
    require(outputs, "S3")
    s3 = outputs.aws("s3")
    unreadable: list[str] = []
    records = terminal.counted(set_aside(s3, outputs.bucket, what, unreadable), "records")
    if send:
        terminal.show(
            {"sent": put_back(outputs.access().client("kinesis"), outputs.stream, records)}, as_json
        )
        raise typer.Exit(1 if unreadable else 0)
    found = list(records)
    if to_delete:
        if found and not yes:
            typer.confirm(
                f"{count(len(found), 'record')} selected. Delete the objects that contain nothing else?",
                abort=True,
                err=True,
            )
        deleted, shared = purge(s3, outputs.bucket, found)
        terminal.show({"objects_deleted": deleted, "kept_for_other_records": shared}, as_json)
        raise typer.Exit(1 if shared or unreadable else 0)
    rows = [
        {
            "object_key": record.key,
            "line": record.line,
            "reasons": ", ".join(record.codes),
            "partition_key": record.partition_key,
            "bytes": len(record.data),
        }
        for record in found
    ]
    if rows or as_json or not unreadable:
        empty = f"no quarantined record matches {what}"
        terminal.show_rows(rows, as_json, title="Quarantined records", wide=wide, empty=empty)
    if rows or unreadable:
        raise typer.Exit(1)


app = terminal.group()


@app.callback()
def quarantine() -> None:
    """List, show, send again or delete quarantined records, which could not be processed.

    Without a subcommand, `list` runs.
    """


app.command("list")(command)


@app.command()
def show(
    context: typer.Context,
    what: What = PREFIX,
    *,
    number: Annotated[int, typer.Option("--number", min=1, max=1000, help="Number of records to show.")] = 3,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Show some quarantined records, each with its object key, line, reason and text.

    Exit code 1: an object could not be read.
    """
    outputs = terminal.outputs_of(context, stage)
    require(outputs, "S3")
    unreadable: list[str] = []
    records = set_aside(outputs.aws("s3"), outputs.bucket, what, unreadable)
    rows = [
        {
            "object_key": each.key,
            "line": each.line,
            "reasons": ", ".join(each.codes),
            "text": _line(each.data).decode(),
        }
        for each, _ in zip(records, range(number), strict=False)
    ]
    if rows or as_json or not unreadable:
        terminal.show_rows(rows, as_json, empty=f"no quarantined record matches {what}")
    if unreadable:
        raise typer.Exit(1)


@app.command("send")
def send_again(
    context: typer.Context,
    what: What = PREFIX,
    *,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Send quarantined records to the stream again, unchanged, for example after a fix of the consumer. Repeating the
    command does no harm.
    """
    command(context, what, send=True, stage=stage, as_json=as_json)


@app.command("purge")
def purge_command(
    context: typer.Context,
    what: What = PREFIX,
    *,
    yes: terminal.Yes = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """After confirmation, delete the objects in which every record matches WHAT.

    Exit code 1: an object was not deleted, because it also contains other records or could not be read.
    """
    command(context, what, to_delete=True, yes=yes, stage=stage, as_json=as_json)


def _aside(key: str, number: int, lines: int, text: bytes) -> Aside:
    line = msgspec.json.decode(text, type=_Line)
    data = bytes(line.event) if line.record_base64 is None else line.record_base64
    return Aside(
        key,
        number,
        lines,
        tuple(reason.code for reason in line.reasons),
        data,
        # A record that the handler quarantined has no partition key, but its event names the device.
        line.origin.get("partition_key") or _device_in(data) or "set-aside",
    )


def _device_in(data: bytes) -> str:
    try:
        event = json.loads(data)
        found = event.get("user", {}).get("deviceId") or event.get("deviceId")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return found[:128] if isinstance(found, str) else ""


def _line(data: bytes) -> bytes:
    try:
        # Decode the bytes first, because msgspec also accepts bytes that are not UTF-8, and returns them unchanged.
        return msgspec.json.format(data.decode(), indent=-1).encode()
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return msgspec.json.encode(data.decode(errors="replace"))
