"""`milkrun rejects`: list and show the events under `rejected/`; repair them by a patch and send them again.

A repaired event is sent through the endpoint like a phone's request. Its field RESENT names the object and
line that it repairs. Accepted events are recorded in `resent/`, so that a repeated command continues after an
interruption and sends nothing twice.
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
from typing import Any

import msgspec

from contract.events import Kind
from contract.objects import hour_of
from handler.parse_body import parse_body
from handler.validate import validate
from ops import posting
from ops.edit_events import Patch
from ops.outputs import Outputs
from ops.read_stores import readable_lines
from snowpipe.archive import Archive
from snowpipe.refusal import Refusal

RESENT = "milkrun_resent"
NOTES = "resent/"
PREFIX = "rejected/"
_PLACE = re.compile(r"(?P<key>rejected/.+):(?P<line>[0-9]{1,9})")
MAX_EVENTS = 500
MAX_BYTES = 900_000
TIMEOUT_SECONDS = 120.0
KEPT_DAYS = 90
# Decimals keep their text: as a float, 1.50 would become 1.5.
_DECODER = msgspec.json.Decoder(float_hook=Decimal)
_ENCODER = msgspec.json.Encoder(decimal_format="number")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Reject:
    """One line of `rejected/`.

    `event` is None if the line is not a JSON object; such an event cannot be patched.
    """

    key: str
    line: int
    code: str
    field: str
    message: str
    app_version: str
    event: dict[str, Any] | None
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
    """A selection of rejects; "" means any. Rejects that are `resent` have been repaired already."""

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
    """The rejects of one stage."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._archive = Archive(s3, bucket)
        self.unreadable: list[str] = []
        # The accepted lines by the repaired object; None if it was not looked up yet.
        self._originals: dict[str, set[int] | None] = {}

    def find(self, selection: Selection) -> Iterator[Reject]:
        """Yield the selected rejects in key order. `unreadable` lists damaged objects."""
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
        """Return whether this event repairs another reject that still exists or was accepted since.

        Then that reject is the one to repair.
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
        """Return the lines of an object that were repaired and accepted."""
        body = self._archive.body(NOTES + key)
        return set(json.loads(body)["lines"]) if body else set()

    def note(self, key: str, lines: Iterable[int]) -> None:
        """Record these lines as accepted."""
        known = sorted(self.resent(key) | set(lines))
        text = json.dumps({"lines": known}, allow_nan=False).encode()
        self._s3.put_object(Bucket=self._bucket, Key=NOTES + key, Body=text)

    def purge(self, rejects: Iterable[Reject]) -> tuple[int, list[str]]:
        """Delete objects whose lines are all selected; return their number, and the keys with other lines."""
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
            key, number, "not_a_reject", "", "not written by Milkrun", "", None, line.decode(errors="replace")
        )


def groups(rejects: Iterable[Reject], by: Sequence[str]) -> list[dict[str, Any]]:
    """Count rejects by code, field and `by` (app_version, device, hour), the most frequent first."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for each in rejects:
        hour = hour_of(each.key)
        parts = {
            "code": each.code,
            "field": each.field,
            "app_version": each.app_version,
            "device": each.device,
            "hour": f"{hour:%Y-%m-%dT%HZ}" if hour else "",
        }
        named = {name: parts[name] for name in ("code", "field", *by)}
        row = found.setdefault(
            tuple(named.values()), named | {"rejects": 0, "devices": set(), "example": each.place}
        )
        row["rejects"] += 1
        row["devices"].add(each.device)
    rows = sorted(found.values(), key=lambda row: (-row["rejects"], row["code"]))
    return [row | {"devices": len(row["devices"])} for row in rows]


@dataclass(slots=True)
class Sent:
    """The result of a repair. `rejected` counts events that were rejected again, by reason."""

    found: int = 0
    no_json: int = 0
    unchanged: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Repaired:
    """A reject and the event that replaces it."""

    reject: Reject
    event: dict[str, Any]

    @property
    def line(self) -> bytes:
        return _ENCODER.encode(self.event)

    def diff(self) -> str:
        """Return the patch's changes as a unified diff of the event's JSON."""

        before, after = (
            msgspec.json.format(_ENCODER.encode(event), indent=2).decode().split("\n")
            for event in (self.reject.event, self.event)
        )
        changed = difflib.unified_diff(before, after, self.reject.place, "sent", n=1, lineterm="")
        return "\n".join(changed)


def repaired(rejects: Iterable[Reject], patch: Patch, sent: Sent) -> Iterator[Repaired]:
    """Patch each event. Those that are not JSON objects, or that the patch does not change, are only counted."""
    for reject in rejects:
        sent.found += 1
        if reject.event is None:
            sent.no_json += 1
            continue
        event = patch.apply(reject.event, reject.text)
        if event == reject.event and patch:
            sent.unchanged += 1
            continue
        yield Repaired(reject, event | {RESENT: reject.place})


def try_out(events: Iterable[Repaired], kinds: Mapping[str, Kind], sent: Sent) -> None:
    """Validate like the handler, without sending."""
    now = datetime.now(UTC)
    for each in events:
        batch = validate(parse_body(each.line, "ndjson"), "ndjson", kinds, now)
        sent.accepted += not batch.rejected
        sent.rejected.update(rejected.reasons[0].code for rejected in batch.rejected)


def batches(events: Iterable[Repaired]) -> Iterator[list[Repaired]]:
    """Group events into requests."""
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


def send(
    post: Callable[[bytes], dict[str, Any]], box: Box, events: Iterable[Repaired], sent: Sent
) -> Iterator[int]:
    """Send requests and record accepted events after each; yield the events settled per request."""
    for batch in batches(events):
        left = batch
        while left:
            settled = _send_once(post, box, left, sent)
            yield settled
            left = left[settled:]


def _send_once(
    post: Callable[[bytes], dict[str, Any]], box: Box, some: Sequence[Repaired], sent: Sent
) -> int:
    """Send one request; return how many of its first events the answer covers.

    An answer has at most 64 KiB: it lists errors in the order of the events and omits the rest.
    """
    receipt = post(b"".join(each.line + b"\n" for each in some))
    codes: dict[int, str] = {}
    for error in receipt.get("errors", ()):
        if error.get("code") != "event_id_conflict":  # it is accepted
            codes.setdefault(int(error["index"]), str(error["code"]))
    rejected = int(receipt.get("rejected", -1))
    if rejected < 0 or (rejected and not codes):
        raise Refusal(
            "the answer does not say which events were rejected, so none of this request is recorded as sent"
        )
    settled = len(some) if len(codes) >= rejected else max(codes) + 1
    sent.rejected.update(codes.values())
    sent.accepted += settled - len(codes)
    taken = [each.reject for n, each in enumerate(some[:settled]) if n not in codes]
    for key, group in groupby(taken, key=lambda each: each.key):
        box.note(key, [each.line for each in group])
    return settled


def poster(outputs: Outputs, timeout_s: float = TIMEOUT_SECONDS) -> Callable[[bytes], dict[str, Any]]:
    """Return a function that posts a body by the client's rule and returns the receipt (or the 400)."""
    post_once = posting.poster(outputs)

    def post(body: bytes) -> dict[str, Any]:
        give_up_at, pause, said = time.monotonic() + timeout_s, 0.2, "no answer"
        while True:
            try:
                status, answer = post_once(body, "application/x-ndjson")
                if status in (202, 400):
                    receipt: dict[str, Any] = json.loads(answer)
                    return receipt
                said = f"answer {status}"
            except posting.NoAnswerError as error:
                said = str(error)
            if time.monotonic() + pause > give_up_at:
                raise Refusal(
                    f"{said} from {outputs.endpoint}; accepted events are recorded, so the same "
                    "command continues"
                )
            time.sleep(pause)
            pause = min(10.0, pause * 2)

    return post
