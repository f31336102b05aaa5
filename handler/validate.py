"""Validate the events of a request: each is accepted, rejected or a duplicate."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from contract.events import (
    MAX_EVENT_BYTES,
    MAX_ID_CHARS,
    Checked,
    InvalidEvent,
    Kind,
    Owned,
    Reason,
    check,
    compact,
    invalid,
    parse_json,
)
from contract.instants import MAX_AGE_AT_RECEIPT
from contract.objects import Rejected
from contract.stream_record import StreamRecord, stream_record
from handler.http import Form
from handler.identity import ANYBODY, Speaker
from handler.limits import DEFAULT_CLOCK_AHEAD_SECONDS
from handler.parse_body import Parts, with_members
from handler.pings import as_event, is_ping

MAX_MESSAGE_CHARS = 200
_NO_KINDS: Mapping[str, Kind] = {}


@dataclass(frozen=True, slots=True)
class Conflict:
    """An accepted event whose device (or user) sent another content of the same id before."""

    index: int
    event_id: str


@dataclass(slots=True)
class Batch:
    """`lines` are the accepted events as they are stored, `records` the geofence events among them."""

    lines: list[bytes] = field(default_factory=list)
    records: list[StreamRecord] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    duplicates: int = 0
    other_user: int = 0
    devices: Counter[str] = field(default_factory=Counter)  # accepted events by device
    oldest_at: datetime | None = None

    @property
    def received(self) -> int:
        return len(self.lines) + len(self.rejected) + self.duplicates


def validate(
    parts: Parts,
    form: Form,
    kinds: Mapping[str, Kind],
    received_at: datetime,
    speaker: Speaker = ANYBODY,
    max_ahead: timedelta = timedelta(seconds=DEFAULT_CLOCK_AHEAD_SECONDS),
) -> Batch:
    """Put every raw event into exactly one of `lines`, `rejected` and `duplicates`."""
    batch = Batch()
    seen: dict[Owned, set[bytes]] = {}
    rejected: dict[bytes, tuple[str | None, bytes, bool, tuple[Reason, ...]]] = {}
    earliest, latest = received_at - MAX_AGE_AT_RECEIPT, received_at + max_ahead
    for index, raw in enumerate(parts.raws):
        if rejected and (again := rejected.get(raw)):
            batch.rejected.append(Rejected(index, *again))
            continue
        value, text, is_json = None, raw, False
        try:
            value = parts.values[index] if parts.values else _parsed(raw, form)
            is_json = True
            text = raw if parts.compact else compact(raw)
            size, possible_kinds = len(text), kinds
            if is_ping(value):
                text, possible_kinds = as_event(text, value), _NO_KINDS
            if parts.identity:
                text = _named(text, value, parts.identity)
            event = _checked(size, value, possible_kinds, earliest, latest)
            if not speaker.may_speak_for(event.device_id):
                raise invalid("device_mismatch", "user.deviceId", "The token is for another device.")
        except InvalidEvent as error:
            reasons = error.reasons if is_json else _brief(error.reasons)
            rejected[raw] = _event_id(value), text, is_json, reasons
            batch.rejected.append(Rejected(index, *rejected[raw]))
            continue
        contents = seen.get(owned := event.owned)
        if contents is None:
            seen[owned] = {text}
        elif text in contents:
            batch.duplicates += 1
            continue
        else:
            contents.add(text)
            batch.conflicts.append(Conflict(index, event.id))
        batch.other_user += speaker.user is not None and _user_id(value) not in (None, speaker.user)
        if batch.oldest_at is None or event.created_at < batch.oldest_at:
            batch.oldest_at = event.created_at
        batch.lines.append(text)
        batch.devices[event.device_id or ""] += 1
        if event.fence:
            batch.records.append(stream_record(event, text, len(batch.lines)))
    return batch


def unreadable(body: bytes, code: str, message: str, content_encoding: str | None) -> Batch:
    """Return the batch of a body that cannot be split: one rejected event, which is the whole body."""
    reasons = _brief((Reason(code, "", message),))
    return Batch(rejected=[Rejected(0, None, body, False, reasons, content_encoding)])


def _parsed(raw: bytes, form: Form) -> object:
    try:
        return parse_json(raw)
    except InvalidEvent as error:
        if form == "json":
            raise
        # An NDJSON line is a document of its own, so a fault in it means that the line is not JSON.
        raise InvalidEvent(
            tuple(msgspec.structs.replace(reason, code="not_json") for reason in error.reasons)
        ) from None


def _named(text: bytes, value: object, identity: Mapping[str, str]) -> bytes:
    """Add the envelope's ids to an event without `user` (or whose `user` is null).

    Except for the members of a ping, this is the only change to an event.
    """
    if not isinstance(value, dict) or value.get("user") is not None:
        return text
    value["user"] = identity
    return with_members(text, {"user": msgspec.json.encode(identity)})


def _checked(
    size: int, value: object, kinds: Mapping[str, Kind], earliest: datetime, latest: datetime
) -> Checked:
    """Validate one event. `size` is its size as sent, without the ids of the envelope."""
    if size > MAX_EVENT_BYTES:
        raise invalid("event_too_large", "", f"The event has {size} bytes; the limit is {MAX_EVENT_BYTES}.")
    event = check(value, kinds)
    # The stage's maxClockAheadSeconds (serverless/params.yml) sets `latest`, contract/instants.py sets `earliest`.
    if event.created_at > latest:
        raise invalid(
            "created_at_in_future",
            "createdAt",
            "`createdAt` is too far ahead of our clock; check the phone's.",
        )
    if event.created_at < earliest:
        message = "`createdAt` is more than 400 days ago; check the phone's calendar."
        raise invalid("created_at_too_old", "createdAt", message)
    return event


def _event_id(value: object) -> str | None:
    event_id = value.get("_id") if isinstance(value, dict) else None
    return event_id[:MAX_ID_CHARS] if isinstance(event_id, str) else None


def _user_id(value: object) -> object:
    user = value.get("user") if isinstance(value, dict) else None
    return user.get("userId") if isinstance(user, dict) else None


def _brief(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    """Truncate messages, because the parser's quote names of any length."""
    return tuple(
        msgspec.structs.replace(reason, message=reason.message[:MAX_MESSAGE_CHARS]) for reason in reasons
    )
