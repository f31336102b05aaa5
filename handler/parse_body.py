"""Split a body into the texts of its events, without parsing them.

NDJSON is split into lines. Nearly all other bodies are valid JSON, which msgspec splits in one pass. One invalid event
must not invalidate the others, so `_split_invalid_json` splits the rest by looking at brackets, commas and strings.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

import msgspec

from contract.event_limits import MAX_EVENT_BYTES
from contract.event_rules import is_id
from contract.events import InvalidEvent
from contract.ndjson import BYTE_ORDER_MARK, lines_in
from contract.strict_json import compact, parse_json
from handler.content_type import Form
from handler.http import Refused, Unreadable
from handler.request_limits import MAX_EVENTS

_IDENTITY = ("userId", "deviceId", "_id")
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Events(msgspec.Struct):
    """The members that make an object an envelope. Decoding only these takes a tenth of the time of `_MEMBERS`."""

    event: msgspec.Raw = msgspec.Raw()
    events: msgspec.Raw = msgspec.Raw()


_EVENTS = msgspec.json.Decoder(_Events)


@dataclass(frozen=True, slots=True)
class Parts:
    """The texts of the events in a body.

    `identity` contains the ids of the envelope's `user`, for events that have no `user`; the other fields of the
    envelope's `user` are personal data and are dropped. `compact` is True if the texts have no whitespace outside
    strings.
    """

    raws: list[bytes]
    identity: Mapping[str, str]
    compact: bool = False


def parse_body(text: bytes, form: Form) -> Parts:
    """Split a body into its events. Raises Unreadable, or Refused (413) if there are more than MAX_EVENTS."""
    text = text.removeprefix(BYTE_ORDER_MARK)
    if not text.strip():
        raise Unreadable("empty_body", "The body is empty.")
    if form == "ndjson":
        parts = Parts(_counted([line for _, line in islice(lines_in(text), MAX_EVENTS + 1)]), {})
    else:
        try:
            parts = replace(_split_valid_json(compact(text)), compact=True)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            parts = _split_invalid_json(text.strip())
    if not parts.raws:
        raise Unreadable("no_events", "The body contains no event.")
    return parts


def _split_valid_json(text: bytes) -> Parts:
    """Split compact JSON into its events. An event may still violate the stricter rules of contract/strict_json.py."""
    if text.startswith(b"["):
        return _array(text, {})
    if not text.startswith(b"{"):
        return Parts([text], {})
    events = _EVENTS.decode(text)
    if not events.event and not events.events:
        return Parts([text], {})
    if len(text) - len(events.event) - len(events.events) > MAX_EVENT_BYTES:
        return _split_invalid_json(text)  # which creates objects for at most MAX_EVENTS + 1 members
    members = {name: bytes(raw) for name, raw in _MEMBERS.decode(text).items()}
    # The text is longer if a member was given twice, because `members` has only one, or if a name contains escapes.
    bytes_of_members = sum(len(name.encode()) + len(raw) + len('"":,') for name, raw in members.items())
    if bytes_of_members + 1 != len(text):
        return _split_invalid_json(text)
    return _object(text, members)


def _object(text: bytes, members: Mapping[str, bytes]) -> Parts:
    """Split an object: one event, or the app's envelope, which may be empty. A null member counts as absent."""
    given = {name: raw for name, raw in members.items() if raw != b"null"}
    if "_id" in given or not ("event" in members or "events" in members):
        return Parts([text], {})
    identity = _identity(given.get("user", b"null"))
    if "event" in given and "events" not in given:
        return Parts([given["event"]], identity)
    if "events" not in given:
        return Parts([], identity)
    if "event" in given or not given["events"].startswith(b"["):
        raise Unreadable("invalid_envelope", "Send either `event` (an object) or `events` (an array).")
    return _array(given["events"], identity)


def _array(text: bytes, identity: Mapping[str, str]) -> Parts:
    try:
        return Parts([bytes(raw) for raw in _counted(_ARRAY.decode(text))], identity)
    except (msgspec.MsgspecError, RecursionError):
        return Parts(_counted(_elements(text)), identity)


def _identity(user: bytes) -> dict[str, str]:
    try:
        given = parse_json(user)
    except InvalidEvent as error:
        message = f"The envelope's `user` is invalid. {error.reasons[0].message}"
        raise Unreadable("invalid_envelope", message) from None
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise Unreadable("invalid_envelope", "The envelope's `user` must be an object.")
    return {name: given[name] for name in _IDENTITY if is_id(given.get(name))}


def _counted[T](parts: list[T]) -> list[T]:
    if len(parts) > MAX_EVENTS:
        detail = f"The body contains more than {MAX_EVENTS} events: split the batch and send its parts."
        raise Refused(413, "too_many_events", detail, limit=MAX_EVENTS)
    return parts


# --- splitting at brackets, commas and strings ----------------------------------------------------

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_MEMBER = re.compile(rb"(%b)\s*+:\s*+(.*+)" % _STRING, re.DOTALL)
# _BETWEEN matches up to a comma of the array itself or a run of brackets. _WITHIN matches, inside an element, up to a
# run of brackets; innermost pairs of brackets do not stop it.
_BETWEEN = re.compile(rb'(?:[^"\[\]{},]++|%b)*+(\[++|{++|\]++|}++|.?)' % _STRING, re.DOTALL)
_WITHIN = re.compile(
    rb'(?:[^"\[\]{}]++|%b|\[[^"\[\]{}]*+\]|{[^"\[\]{}]*+})*+(\[++|{++|\]++|}++|.?)' % _STRING, re.DOTALL
)
_CLOSES = {b"[": b"]", b"{": b"}"}
# Each run of brackets costs a step in Python, so their number is limited. Events have less than one run per 32 bytes.
MAX_RUNS, BYTES_PER_RUN = 10_000, 32


def _split_invalid_json(text: bytes) -> Parts:
    if text.startswith(b"["):
        return Parts(_counted(_elements(text)), {})
    members: dict[str, bytes] = {}
    elements = _elements(text)
    if len(elements) > MAX_EVENTS:  # no envelope
        return Parts([text], {})
    for member in elements:
        name, value = _member(member)
        if name in members and name in ("event", "events", "user"):
            raise Unreadable("invalid_envelope", f"The envelope has `{name}` twice.")
        members[name] = value
    return _object(text, members)


def _member(text: bytes) -> tuple[str, bytes]:
    found = _MEMBER.fullmatch(text)
    if found is None:
        raise Unreadable("not_json", "The body is not JSON.")
    try:
        name = str(msgspec.json.decode(found[1]))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        name = found[1].decode("utf-8", "backslashreplace")
    return name, found[2]


def _elements(text: bytes) -> list[bytes]:
    """Split an array's or object's text at its outermost commas, up to MAX_EVENTS + 1 elements. Raises Unreadable."""
    elements: list[bytes] = []
    open_brackets = bytearray(_CLOSES.get(text[:1], b""))
    begin = at = 1
    for _ in range(MAX_RUNS + len(text) // BYTES_PER_RUN):
        if not open_brackets or len(elements) > MAX_EVENTS:
            break
        found = (_BETWEEN if len(open_brackets) == 1 else _WITHIN).match(text, at)
        run, at = (found[1], found.end()) if found else (b"", at)
        if run[:1] in _CLOSES:
            open_brackets += _CLOSES[run[:1]] * len(run)
        elif run[:1] in (b"]", b"}") and open_brackets.endswith(run):
            del open_brackets[-len(run) :]
        elif run != b",":
            raise Unreadable("not_json", "The body is not JSON: brackets or quotes do not match.")
        if not open_brackets or (run == b"," and len(open_brackets) == 1):
            elements.append(text[begin : at - 1].strip())
            begin = at
    else:
        message = "The body is not JSON, and has too many brackets for its events to be separated."
        raise Unreadable("not_json", message)
    if (len(elements) <= MAX_EVENTS and at != len(text)) or not elements:
        raise Unreadable("not_json", "The body is not JSON.")
    if elements == [b""]:
        return []
    if b"" in elements:
        raise Unreadable("not_json", "The body is not JSON: a value is missing before or after a comma.")
    return elements
