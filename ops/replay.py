"""`milkrun replay`: send archived geofence events to the stream again (S3 → Kinesis).

A replay does no harm: visits depend only on the *set* of events, so an event that is already known changes nothing.
Each event gets an additional field, `milkrun_replay`, with the name of the replay. After an interruption, the same
command continues after the last object that was sent completely.
"""

import hashlib
import json
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml

from aws.stream import KinesisStream
from cli.refusal import Refusal
from contract.archive_object import hour_folder, hour_of, is_content, prefix_of
from contract.event_limits import MAX_AGE
from contract.event_rules import check
from contract.events import InvalidEvent
from contract.geofence_event_types import GEOFENCE_KINDS, Kind
from contract.stream_record import StreamRecord, stream_record
from contract.strict_json import parse_json
from ops import quarantine, terminal
from ops.discarded_batches import replay_given_up
from ops.reachable_stores import require
from ops.read_stores import geofence_kinds, readable_lines
from ops.send_to_stream import Pace, labelled, put_all
from ops.stage_outputs import ROOT
from snowpipe.archive import Archive

EVER = datetime.min.replace(tzinfo=UTC)

_TOO_OLD = (
    f"the consumer skips events that are more than {MAX_AGE.days} days old: choose a later start, or another "
    "prefix. To restore older visits, rebuild the marts: milkrun warehouse dbt build --full-refresh"
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects archived events by the time at which they were received, and by key prefix, type and device."""

    start: datetime
    end: datetime
    prefix: str = ""
    types: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    # The stage's geofence event types.
    kinds: Mapping[str, Kind] = field(default_factory=lambda: GEOFENCE_KINDS)

    @property
    def digest(self) -> str:
        """Return a hash of the selection without its times, because `3 hours ago` is a different time in each run."""
        text = json.dumps([self.prefix, sorted(self.types), sorted(self.devices)], allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def keys(self, archive: Archive, now: datetime) -> Iterator[str]:
        """Yield, in key order, the keys of the objects in the selected range and under the selected prefix, if any.

        Raises Refusal if there is no prefix and the range starts more than MAX_AGE ago, or if a selected object was
        received more than MAX_AGE ago, because the consumer would skip such events.
        """
        oldest, first = now - MAX_AGE, self.start.replace(minute=0, second=0, microsecond=0)
        if not self.prefix and self.start < oldest:
            raise Refusal(_TOO_OLD)
        found = (
            archive.objects(self.prefix) if self.prefix else archive.received("events/", self.start, self.end)
        )
        for each in found:
            if prefix_of(each.key) != "events" or not is_content(each.key, each.size):
                continue
            hour = hour_of(each.key) or each.modified_at
            if not first <= hour <= self.end:
                continue
            if hour < oldest:
                raise Refusal(_TOO_OLD)
            yield each.key

    def records_in(
        self, lines: Iterable[bytes], label: str, odd: Callable[[int], object] = lambda _: None
    ) -> Iterator[StreamRecord]:
        """Yield a stream record for each selected geofence event in the lines of an object.

        `odd` is called with the number of each line that is not a JSON object, and of each invalid geofence event.
        Events of other types are skipped unchecked.
        """
        kinds = tuple(self.kinds)  # not a set, because an invalid event's type may not be hashable
        for number, line in enumerate(lines, 1):
            try:
                event = parse_json(line)
                if isinstance(event, dict) and event.get("type") not in kinds:
                    continue
                checked = check(event, self.kinds)
            except InvalidEvent:
                odd(number)
                continue
            if self.types and event["type"] not in self.types:
                continue
            if not self.devices or checked.device_id in self.devices:
                yield stream_record(checked, labelled(line, event, label), number)


@dataclass(slots=True)
class Done:
    """The result of a replay. After a dry run, `sent` is the number of events that would be sent."""

    objects: int = 0
    bytes: int = 0
    sent: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    last_key: str = ""
    # The keys of damaged objects, and `KEY line N` for each invalid line.
    unreadable: list[str] = field(default_factory=list)


class Progress:
    """The progress of a replay of events since `start`, stored in a file.

    The file is deleted when the replay is complete.
    """

    def __init__(self, path: Path, start: datetime) -> None:
        self._path = path
        self._from_hour = f"{start.astimezone(UTC):%Y-%m-%dT%H}"
        self._first_folder = f"events/{hour_folder(start.astimezone(UTC))}/"

    def last_key(self) -> str:
        """Return the key after which to continue; "" if there was no interrupted run, or if it began at a later hour or
        was interrupted before the first hour of this run.
        """
        try:
            known = json.loads(self._path.read_text())
            if known["from_hour"] > self._from_hour or known["last_key"] < self._first_folder:
                return ""
            # This run continues the replay that began at `from_hour`.
            self._from_hour = known["from_hour"]
            return str(known["last_key"])
        except (OSError, ValueError, KeyError):
            return ""

    def remember(self, last_key: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"from_hour": self._from_hour, "last_key": last_key}, allow_nan=False))
        partial.replace(self._path)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def replay(
    archive: Archive,
    stream: KinesisStream | None,
    selection: Selection,
    *,
    label: str,
    per_second: float = math.inf,
    after: str = "",
    on_sent: Callable[[Done], None] = lambda _: None,
) -> Done:
    """Send the selected events of all objects after the key `after`; if `stream` is None, only count them.

    `on_sent` is called after each object that was sent completely. Raises Refusal if an object is too old
    (`Selection.keys`), or if the stream keeps throttling or failing, or rejects a record as malformed.
    """
    done, pace = Done(), Pace(per_second)
    for key in selection.keys(archive, datetime.now(UTC)):
        if key <= after:
            continue
        body = archive.body(key)
        if body is None:  # deleted since it was listed, by a lifecycle rule or `forget`
            continue
        lines = readable_lines(body, key)
        if lines is None:
            done.unreadable.append(key)
        odd: list[int] = []
        records = list(selection.records_in(lines or (), label, odd.append))
        done.unreadable += (f"{key} line {number}" for number in odd)
        if stream is not None:
            put_all(records, stream, pace)
        done.objects += 1
        done.bytes += len(body)
        done.sent += len(records)
        done.by_type.update(json.loads(record.data)["type"] for record in records)
        done.last_key = key
        on_sent(done)
    return done


def lines_again(
    archive: Archive,
    stream: KinesisStream,
    lines: Iterable[tuple[str, int]],
    label: str,
    pace: Pace,
    kinds: Mapping[str, Kind] = GEOFENCE_KINDS,
) -> int:
    """Resend individual archived lines, each identified by object key and line number; return the number of
    events sent.
    """
    numbers: dict[str, set[int]] = {}
    for key, number in lines:
        numbers.setdefault(key, set()).add(number)
    everything = Selection(EVER, datetime.max.replace(tzinfo=UTC), kinds=kinds)
    count = 0
    for key, wanted in numbers.items():
        body = archive.body(key)
        if body is not None:
            records = everything.records_in(readable_lines(body) or (), label)
            records = (record for record in records if record.line in wanted)
            count += put_all(records, stream, pace)
    return count


# --- the command


def command(
    context: typer.Context,
    *,
    start: Annotated[
        datetime | None,
        terminal.time_option(terminal.FIRST_HOUR, "--from"),
    ] = None,
    end: terminal.To = terminal.NOW,
    type_: Annotated[
        list[str] | None,
        terminal.text_option("TYPE", "Send only events of this type. Can be repeated.", "--type"),
    ] = None,
    device: Annotated[
        list[str] | None,
        terminal.text_option("DEVICE", "Send only events from this device. Can be repeated."),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            metavar="PREFIX",
            help="Send only events in objects with this key prefix, such as events/dt=2026-11-16/.",
        ),
    ] = "",
    aside: Annotated[
        str | None,
        terminal.text_option(
            "WHAT",
            "Instead of archived events, send the quarantined records with this key prefix or reason code.",
            "--set-aside",
        ),
    ] = None,
    to_file: Annotated[
        Path | None,
        typer.Option(
            parser=terminal.writable,
            metavar="FILE",
            help="With --set-aside: write the records to this NDJSON file, which `milkrun send --file` can send.",
        ),
    ] = None,
    on_failure: Annotated[
        bool,
        typer.Option(
            "--on-failure",
            help="Instead of archived events, send the batches that the event source mapping discarded.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            help="Send nothing; show the number of events and, for archived events, the duration and the cost."
        ),
    ] = False,
    rate: Annotated[
        float, typer.Option(min=0.1, max=1_000_000, help="Maximum number of events per second.")
    ] = 200,
    restart: Annotated[
        bool, typer.Option(help="Start from the beginning instead of continuing an interrupted run.")
    ] = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Send archived or quarantined geofence events, or discarded batches, to the consumer again.

    Objects and lines that cannot be read are listed, and the rest is sent; the exit code is then 1.
    """
    if sum(map(bool, (start or prefix, aside, on_failure))) != 1:
        raise typer.BadParameter("use one of --from (or --prefix), --set-aside and --on-failure")
    if (aside or on_failure) and (type_ or device or restart or terminal.is_given(context, "end")):
        raise typer.BadParameter("--to, --type, --device and --restart can be used only for archived events")
    if not prefix.startswith("events/"[: len(prefix)]):
        raise typer.BadParameter(
            f"--prefix {prefix!r} selects no archived events: it must begin with events/"
        )
    if to_file and not aside:
        raise typer.BadParameter("--to-file requires --set-aside")
    terminal.check_range(start or EVER, end)
    outputs = terminal.outputs_of(context, stage)
    require(outputs, "S3", "Lambda") if dry_run or to_file else require(outputs, "S3", "Lambda", "Kinesis")
    archive, kinesis = Archive(outputs.aws("s3"), outputs.bucket), outputs.access().client("kinesis")
    stream = KinesisStream(kinesis, outputs.stream)
    if aside:
        again = quarantine.replay(
            outputs.aws("s3"),
            kinesis,
            bucket=outputs.bucket,
            stream=outputs.stream,
            what=aside,
            to_file=to_file,
            dry_run=dry_run,
            pace=Pace(rate).wait_for,
        )
        _show(again, as_json)
        return
    now = datetime.now(UTC)
    label = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    if on_failure:
        _show(replay_given_up(archive, None if dry_run else stream, label, Pace(rate)), as_json)
        return
    kinds = geofence_kinds(outputs, stage)
    chosen = Selection(start or EVER, end, prefix, frozenset(type_ or ()), frozenset(device or ()), kinds)
    folder = ROOT / (context.obj.get("MILKRUN_LOCAL") or ".local") / "replay"
    progress = Progress(folder / f"{stage}-{chosen.digest}.json", chosen.start)
    after = "" if restart else progress.last_key()
    if after:
        terminal.err.print(f"{'would continue' if dry_run else 'continuing'} after {after}", markup=False)
    with terminal.progress() as bars:
        task = bars.add_task("counting" if dry_run else f"replay {label}", total=None)

        def on_sent(done: Done) -> None:
            bars.update(task, completed=done.sent)
            if not dry_run:
                progress.remember(done.last_key)

        try:
            done = replay(
                archive,
                None if dry_run else stream,
                chosen,
                label=label,
                per_second=rate,
                after=after,
                on_sent=on_sent,
            )
        except KeyboardInterrupt:
            terminal.err.print(
                "interrupted" if dry_run else "interrupted; run the same command to continue from here"
            )
            raise typer.Exit(130) from None
    if not dry_run:
        progress.forget()
    facts: dict[str, object] = {
        "label": None if dry_run else label,
        "objects": done.objects,
        "bytes": done.bytes,
        "sent": 0 if dry_run else done.sent,
        "by_type": dict(done.by_type),
    }
    if done.unreadable:
        facts["unreadable"] = done.unreadable
    if dry_run:
        facts |= {"would_send": done.sent, "seconds": round(done.sent / rate, 1), "dollars": price_of(done)}
    _show(facts, as_json)


def _show(facts: Mapping[str, object], as_json: bool) -> None:
    """Print the result of a replay; exit with 1 if objects or lines could not be read."""
    terminal.show(facts, as_json)
    if "unreadable" in facts:
        raise typer.Exit(1)


def price_of(done: Done) -> float:
    """Return the list price of a replay in US dollars: one GET per object, one payload unit (25 KB) per record."""
    prices = yaml.safe_load((Path(__file__).parent / "prices.yml").read_text())
    gets, units = done.objects * prices["s3"]["get"], done.sent * prices["kinesis"]["put_payload_unit"]
    return float(round(gets + units, 9))
