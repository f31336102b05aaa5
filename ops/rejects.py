"""`milkrun rejects`: list rejected events, repair them with a patch, and send them again.

A repaired event is posted to the stage like the events of a phone. Its field `milkrun_resent` names the
object and the line of the rejected event. Accepted events are recorded under `resent/`, so that a repeated
command continues an interrupted one and skips these events.
"""

import base64
import difflib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from cli.command_errors import one_line
from cli.refusal import Refusal
from contract.archive_object import hour_of
from contract.geofence_event_types import Kind
from handler.parse_body import parse_body
from handler.request_limits import MAX_BODY_BYTES, MAX_EVENTS
from handler.validate import validate
from ops import post_to_endpoint
from ops.edit_events import Patch
from ops.read_stores import readable_lines
from ops.stage_outputs import Outputs
from snowpipe.archive import Archive

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RESENT = "milkrun_resent"
NOTES = "resent/"
PREFIX = "rejected/"
_PLACE = re.compile(r"(?P<key>rejected/.+):(?P<line>[0-9]{1,9})")
MAX_BYTES = 900_000
TIMEOUT_SECONDS = 120.0
KEPT_DAYS = 90
# Decimals keep their digits; as a float, 1.50 would become 1.5.
_DECODER = msgspec.json.Decoder(float_hook=Decimal)
_ENCODER = msgspec.json.Encoder(decimal_format="number")
# Events are compared as canonical JSON, because in Python 1 == True, and the order of fields has no meaning.
_CANONICAL = msgspec.json.Encoder(decimal_format="number", order="deterministic")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


type Event = dict[str, object]
type Receipt = dict[str, Any]
"""The JSON of a 202 or 400 response."""
type Post = Callable[[bytes], Receipt]


@dataclass(frozen=True, slots=True)
class Reject:
    """A rejected event: one line of an object under `rejected/`.

    `event` is None if the rejected text is not a JSON object and therefore cannot be patched.
    """

    key: str
    line: int
    code: str
    field: str
    message: str
    app_version: str
    event: Event | None
    text: str

    @property
    def device(self) -> str:
        user = (self.event or {}).get("user")
        found = (user.get("deviceId") if isinstance(user, dict) else None) or (self.event or {}).get(
            "deviceId"
        )
        return found if isinstance(found, str) else ""

    @property
    def place(self) -> str:
        return f"{self.key}:{self.line}"


@dataclass(frozen=True, slots=True)
class Selection:
    """The filters for rejected events. An empty string matches any value. If `resent` is true, events that were
    repaired and accepted are selected, too.
    """

    start: datetime
    end: datetime
    code: str = ""
    app_version: str = ""
    device: str = ""
    resent: bool = False

    def __contains__(self, reject: Reject) -> bool:
        wanted = (
            (self.code, reject.code),
            (self.app_version, reject.app_version),
            (self.device, reject.device),
        )
        return all(not asked or asked == found for asked, found in wanted)


class Box:
    """The rejected events in the bucket of a stage. `unreadable` collects the keys of damaged objects."""

    def __init__(self, s3: "S3Client", bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._archive = Archive(s3, bucket)
        self.unreadable: list[str] = []
        # The repaired and accepted lines of deleted objects; None for an object that still exists.
        self._originals: dict[str, set[int] | None] = {}

    def find(self, selection: Selection) -> Iterator[Reject]:
        """Yield the selected rejects in key order."""
        for listed in self._archive.received(PREFIX, selection.start, selection.end):
            body = self._archive.body(listed.key)
            if body is None:  # deleted since it was listed
                continue
            lines = readable_lines(body, listed.key)
            if lines is None:
                self.unreadable.append(listed.key)
                continue
            resent = set() if selection.resent else self.resent(listed.key)
            for number, line in enumerate(lines, 1):
                if number in resent or (reject := _reject(listed.key, number, line)) not in selection:
                    continue
                if selection.resent or not self._stands_for_another(reject):
                    yield reject

    def _stands_for_another(self, reject: Reject) -> bool:
        """Return whether this reject is a failed repair of another one that still exists or was accepted later.

        Such a reject is skipped, because only the original reject needs to be repaired.
        """
        match = _PLACE.fullmatch(str((reject.event or {}).get(RESENT) or ""))
        if match is None or match["key"] == reject.key:
            return False
        key, line = match["key"], int(match["line"])
        if key not in self._originals:
            is_kept = any(found.key == key for found in self._archive.objects(key))
            self._originals[key] = None if is_kept else self.resent(key)
        accepted = self._originals[key]
        return accepted is None or line in accepted

    def resent(self, key: str) -> set[int]:
        """Return the line numbers of an object's events that were repaired and accepted."""
        body = self._archive.body(NOTES + key)
        return set(json.loads(body)["lines"]) if body else set()

    def note(self, key: str, lines: Iterable[int]) -> None:
        """Record that these lines of an object were repaired and accepted."""
        known = sorted(self.resent(key) | set(lines))
        text = json.dumps({"lines": known}, allow_nan=False).encode()
        self._s3.put_object(Bucket=self._bucket, Key=NOTES + key, Body=text)

    def purge(self, rejects: Iterable[Reject]) -> tuple[int, list[str]]:
        """Delete the objects whose lines are all selected or already repaired.

        Returns the number of deleted objects, and the keys of the objects that were kept.
        """
        deleted, shared = 0, []
        for key, group in groupby(rejects, key=lambda each: each.key):
            meant = {each.line for each in group}
            lines = readable_lines(self._archive.body(key) or b"", key) or ()
            if set(range(1, len(lines) + 1)) <= meant | self.resent(key):
                self._s3.delete_object(Bucket=self._bucket, Key=key)
                deleted += 1
            else:
                shared.append(key)
        return deleted, shared


def _reject(key: str, number: int, line: bytes) -> Reject:
    try:
        reject = _DECODER.decode(line)
        reason = reject["reasons"][0]
        event = reject.get("event")
        said = (
            base64.b64decode(reject["body_base64"])
            if event is None
            else bytes(_MEMBERS.decode(line)["event"])
        )
        return Reject(
            key,
            number,
            str(reason["code"]),
            str(reason["field"]),
            str(reason["message"]),
            str(reject.get("app_version") or ""),
            event if isinstance(event, dict) else None,
            said.decode(errors="replace"),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reject(
            key,
            number,
            "not_a_reject",
            "",
            "not in the format of a rejected event",
            "",
            None,
            line.decode(errors="replace"),
        )


def groups(rejects: Iterable[Reject], by: Sequence[str]) -> list[dict[str, object]]:
    """Group rejects by code, field and the names in `by`; return one row per group, the largest group first."""
    names = ("code", "field", *by)
    found: dict[tuple[str, ...], list[Reject]] = {}
    for each in rejects:
        hour = hour_of(each.key)
        parts = {
            "code": each.code,
            "field": each.field,
            "app_version": each.app_version,
            "device": each.device,
            "hour": f"{hour:%Y-%m-%dT%HZ}" if hour else "",
        }
        found.setdefault(tuple(parts[name] for name in names), []).append(each)
    return [
        {
            **dict(zip(names, values, strict=True)),
            "rejects": len(some),
            "devices": len({each.device for each in some}),
            "example": some[0].place,
        }
        for values, some in sorted(found.items(), key=lambda group: (-len(group[1]), group[0][0]))
    ]


@dataclass(slots=True)
class Sent:
    """The result of a repair. `rejected` counts, by reason, the events that were rejected again."""

    found: int = 0
    no_json: int = 0
    unchanged: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Repaired:
    """A rejected event and the repaired event that replaces it."""

    reject: Reject
    event: Event

    @property
    def line(self) -> bytes:
        return _ENCODER.encode(self.event)

    def diff(self) -> str:
        """Return the changes to the event's JSON as a unified diff."""
        before, after = (
            msgspec.json.format(_ENCODER.encode(event), indent=2).decode().split("\n")
            for event in (self.reject.event, self.event)
        )
        changed = difflib.unified_diff(before, after, self.reject.place, "sent", n=1, lineterm="")
        return "\n".join(changed)


def repaired(rejects: Iterable[Reject], patch: Patch, sent: Sent) -> Iterator[Repaired]:
    """Yield the patched events.

    Events that are not JSON objects, or that the patch does not change, are only counted. With an empty patch, every
    event that is a JSON object is yielded.
    """
    for reject in rejects:
        sent.found += 1
        if reject.event is None:
            sent.no_json += 1
            continue
        event = patch.apply(reject.event, reject.text)
        if patch and _CANONICAL.encode(event) == _CANONICAL.encode(reject.event):
            sent.unchanged += 1
            continue
        yield Repaired(reject, event | {RESENT: reject.place})


def try_out(events: Iterable[Repaired], kinds: Mapping[str, Kind], sent: Sent) -> None:
    """Validate repaired events as the handler would, and count the result in `sent`, without sending them."""
    now = datetime.now(UTC)
    for each in events:
        batch = validate(parse_body(each.line, "ndjson"), "ndjson", kinds, now)
        sent.accepted += not batch.rejected
        sent.rejected.update(rejected.reasons[0].code for rejected in batch.rejected)


def batches(events: Iterable[Repaired]) -> Iterator[list[Repaired]]:
    """Group repaired events into requests of at most MAX_EVENTS events and MAX_BYTES bytes."""
    some: list[Repaired] = []
    size = 0
    for each in events:
        length = len(each.line) + 1
        if some and (len(some) == MAX_EVENTS or size + length > MAX_BYTES):
            yield some
            some, size = [], 0
        some.append(each)
        size += length
    if some:
        yield some


def send(post: Post, box: Box, events: Iterable[Repaired], sent: Sent) -> Iterator[int]:
    """Send repaired events in requests, and record the accepted events after each request.

    Yields, for each response, the number of events whose outcome it shows.
    """
    for batch in batches(events):
        left = batch
        while left:
            settled = _send_once(post, box, left, sent)
            yield settled
            left = left[settled:]


def _send_once(post: Post, box: Box, some: Sequence[Repaired], sent: Sent) -> int:
    """Send one request; return how many events, counted from the first, have an outcome in the response.

    A response has at most 64 KiB. It lists errors in the order of the events, and omits errors that do not
    fit.
    """
    body = b"".join(each.line + b"\n" for each in some)
    if len(body) > MAX_BODY_BYTES:  # a single event, for which the API would answer 413
        sent.rejected["event_too_large"] += 1
        return 1
    receipt = post(body)
    codes: dict[int, str] = {}
    for error in receipt.get("errors", ()):
        if error.get("code") != "event_id_conflict":  # an event with this error is accepted
            codes.setdefault(int(error["index"]), str(error["code"]))
    rejected = int(receipt.get("rejected", -1))
    if rejected < 0 or (rejected and not codes):
        raise Refusal(
            "the response does not say which events were rejected, so no event of this request is recorded as accepted"
        )
    settled = len(some) if len(codes) >= rejected else max(codes) + 1
    sent.rejected.update(codes.values())
    sent.accepted += settled - len(codes)
    taken = [each.reject for n, each in enumerate(some[:settled]) if n not in codes]
    for key, group in groupby(taken, key=lambda each: each.key):
        box.note(key, [each.line for each in group])
    return settled


def poster(outputs: Outputs, timeout_s: float = TIMEOUT_SECONDS) -> Post:
    """Return a function that posts a body until the response is 202 or 400, as the app does, and returns the
    receipt.

    A status that no later attempt would change, such as 403 for a wrong API key, raises Refusal at once. Other
    failures raise Refusal after `timeout_s` seconds.
    """
    post_once = post_to_endpoint.poster(outputs)

    def post(body: bytes) -> Receipt:
        give_up_at, pause, said = time.monotonic() + timeout_s, 0.2, "no answer"
        while True:
            try:
                status, answer = post_once(body, "application/x-ndjson")
                if status in (202, 400):
                    receipt: Receipt = json.loads(answer)
                    return receipt
                said = f"{outputs.endpoint} answered {status}"
                if status < 500 and status not in (408, 429):
                    raise Refusal(
                        f"{said}: {one_line(answer.decode(errors='replace'))}. Accepted events are recorded"
                    )
            except post_to_endpoint.NoAnswerError as error:
                said = str(error)
                if error.is_final:
                    raise Refusal(f"{said}. Accepted events are recorded") from None
            if time.monotonic() + pause > give_up_at:
                raise Refusal(f"{said}; accepted events are recorded, so repeat the command to continue")
            time.sleep(pause)
            pause = min(10.0, pause * 2)

    return post
