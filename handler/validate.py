"""Validate the events of a request: each is accepted, rejected, or counted as a duplicate."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from contract import event_limits
from contract.accepted_lines import accepted_line
from contract.event_rules import Checked, check
from contract.events import InvalidEvent, Owned, Reason, invalid
from contract.geofence_event_types import Kind
from contract.position_pings import is_ping
from contract.rejected_lines import Rejected
from contract.strict_json import all_integers_fit, compact, parse_json
from handler.content_type import Form
from handler.identity import ANYBODY, Speaker
from handler.parse_body import Parts

MAX_MESSAGE_CHARS = 200


@dataclass(slots=True)
class Batch:
    """The validated events of a request.

    `lines` are the accepted events as they are stored, in the order of `accepted`. `conflicts` are the indexes and ids
    of accepted events that differ from an earlier event of this request with the same identity.
    """

    accepted: list[Checked] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    conflicts: list[tuple[int, str]] = field(default_factory=list)
    duplicates: int = 0
    other_user: int = 0
    devices: Counter[str] = field(default_factory=Counter)  # number of accepted events per device
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
    max_ahead: timedelta = timedelta(seconds=event_limits.DEFAULT_CLOCK_AHEAD_SECONDS),
) -> Batch:
    """Validate the events of a request, and count each exactly once: in `lines`, `rejected` or `duplicates`."""
    batch = Batch()
    first: dict[Owned, bytes] = {}
    contents: dict[Owned, set[bytes]] = {}  # only of events that occur more than once
    rejected: dict[bytes, tuple[str | None, bytes, bool, tuple[Reason, ...]]] = {}
    earliest, latest = received_at - event_limits.MAX_AGE_AT_RECEIPT, received_at + max_ahead
    integers_fit = all_integers_fit(b" ".join(parts.raws))
    for index, raw in enumerate(parts.raws):
        if rejected and (again := rejected.get(raw)):
            batch.rejected.append(Rejected(index, *again))
            continue
        value, text, is_json = None, raw, False
        try:
            value = parse_json(raw, integers_fit=integers_fit)
            is_json = True
            text = raw if parts.compact else compact(raw)
            size, event_kinds = len(text), {} if is_ping(value) else kinds  # size without added members
            text = accepted_line(text, value, parts.identity)
            if size > event_limits.MAX_EVENT_BYTES:
                message = f"The event has {size} bytes; the limit is {event_limits.MAX_EVENT_BYTES}."
                raise invalid("event_too_large", "", message)
            event = check(value, event_kinds)
            if not earliest <= event.created_at <= latest:
                raise _wrong_time(is_ahead=event.created_at > latest)
            if not speaker.may_speak_for(event.device_id):
                raise invalid("device_mismatch", "user.deviceId", "The token is for a different device.")
        except InvalidEvent as error:
            # An NDJSON line is a document of its own, so a fault in it means that the line is not JSON.
            code = "not_json" if form == "ndjson" else ""
            reasons = error.reasons if is_json else _brief(error.reasons, code)
            rejected[raw] = _event_id(value), text, is_json, reasons
            batch.rejected.append(Rejected(index, *rejected[raw]))
            continue
        if (owned := event.owned) not in first:
            first[owned] = text
        elif text in (known := contents.setdefault(owned, {first[owned]})):
            batch.duplicates += 1
            continue
        else:
            known.add(text)
            batch.conflicts.append((index, event.id))
        batch.other_user += speaker.user is not None and _user_id(value) not in (None, speaker.user)
        batch.lines.append(text)
        batch.accepted.append(event)
    batch.devices = Counter([event.device_id or "" for event in batch.accepted])
    batch.oldest_at = min([event.created_at for event in batch.accepted], default=None)
    return batch


def unreadable(body: bytes, code: str, message: str, content_encoding: str | None) -> Batch:
    """Return the batch for a body that cannot be split: the whole body becomes one rejected event."""
    reasons = _brief((Reason(code, "", message),))
    return Batch(rejected=[Rejected(0, None, body, False, reasons, content_encoding)])


def _wrong_time(*, is_ahead: bool) -> InvalidEvent:
    days, advice = event_limits.MAX_AGE_AT_RECEIPT.days, "check the phone's clock and calendar."
    if is_ahead:
        message = f"`createdAt` is too far ahead of our clock; {advice}"
        return invalid("created_at_in_future", "createdAt", message)
    return invalid("created_at_too_old", "createdAt", f"`createdAt` is more than {days} days ago; {advice}")


def _event_id(value: object) -> str | None:
    event_id = value.get("_id") if isinstance(value, dict) else None
    return event_id[: event_limits.MAX_ID_CHARS] if isinstance(event_id, str) else None


def _user_id(value: object) -> object:
    user = value.get("user") if isinstance(value, dict) else None
    return user.get("userId") if isinstance(user, dict) else None


def _brief(reasons: Sequence[Reason], code: str = "") -> tuple[Reason, ...]:
    """Truncate each reason's message, because the parser's messages quote field names of any length.

    If `code` is given, it replaces the code of every reason.
    """
    return tuple(Reason(code or each.code, each.field, each.message[:MAX_MESSAGE_CHARS]) for each in reasons)
