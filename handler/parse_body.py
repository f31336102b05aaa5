"""From a body's text to the texts of its events, none of them parsed for more than where it ends.

Bodies are nearly always sound, and then msgspec splits them in one pass. A body that is not strict JSON as a
whole may still hold 499 sound events round an odd one: `_split_invalid_json` tells them apart by brackets, commas and
strings alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from contract.events import InvalidEvent, compact, is_id, parse_json
from contract.lines import BYTE_ORDER_MARK, lines_in
from handler.http import Form, Refused, Unreadable

MAX_EVENTS = 500

_IDENTITY = ("userId", "deviceId", "_id")
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Parts:
    """`identity`: the envelope's ids, for events without `user`; the rest of it is personal data.

    `compact`: the texts have no whitespace outside strings.
    """

    raws: list[bytes]
    identity: Mapping[str, str]
    compact: bool = False


def parse_body(text: bytes, form: Form) -> Parts:
    """The events of a body; raises Unreadable if they cannot be told apart, Refused (413) over MAX_EVENTS."""
    text = text.removeprefix(BYTE_ORDER_MARK)
    if not text.strip():
        raise Unreadable("empty_body", "The body is empty.")
    parts = _lines(text) if form == "ndjson" else _json(text)
    if not parts.raws:
        raise Unreadable("no_events", "The body holds no event.")
    return parts


def _lines(text: bytes) -> Parts:
    return Parts(_counted([line for _, line in lines_in(text)]), {})


def _json(text: bytes) -> Parts:
    try:
        return replace(_split_valid_json(compact(text)), compact=True)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _split_invalid_json(text.strip())


def _split_valid_json(text: bytes) -> Parts:
    """Strict JSON but for what lies inside events; `text` has no whitespace outside strings."""
    if text.startswith(b"["):
        return Parts(_array(text), {})
    if not text.startswith(b"{"):
        return Parts([text], {})
    members = {name: bytes(raw) for name, raw in _OBJECT.decode(text).items()}
    # A name given twice would be lost here in silence; then (or if a name is escaped) the lengths differ.
    if len(text) != 1 + sum(len(name.encode()) + 4 + len(raw) for name, raw in members.items()):
        return _split_invalid_json(text)
    return _object(text, members)


def _object(text: bytes, members: Mapping[str, bytes]) -> Parts:
    """One event, or the app's envelope around one or several; a member that is null counts as absent."""
    given = {name: raw for name, raw in members.items() if raw != b"null"}
    if "_id" in given or not ("event" in members or "events" in members):
        return Parts([text], {})
    identity = _identity(given.get("user", b"null"))
    if "event" in given and "events" not in given:
        return Parts([given["event"]], identity)
    if "events" not in given:
        return Parts([], identity)
    if "event" in given or not given["events"].startswith(b"["):
        raise Unreadable("invalid_envelope", "Send either `event`, an object, or `events`, an array.")
    return Parts(_array(given["events"]), identity)


def _array(text: bytes) -> list[bytes]:
    try:
        return [bytes(raw) for raw in _counted(_ARRAY.decode(text))]
    except (msgspec.MsgspecError, RecursionError):
        return _counted(_elements(text))


def _identity(user: bytes) -> dict[str, str]:
    try:
        given = parse_json(user)
    except InvalidEvent as error:
        raise Unreadable("invalid_envelope", f"The envelope's `user`: {error.reasons[0].message}") from None
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise Unreadable("invalid_envelope", "The envelope's `user` must be an object.")
    return {name: given[name] for name in _IDENTITY if is_id(given.get(name))}


def _counted[T](parts: list[T]) -> list[T]:
    if len(parts) > MAX_EVENTS:
        detail = f"The body holds {len(parts)} events, over {MAX_EVENTS}: split the batch and send its parts."
        raise Refused(413, "too_many_events", detail, limit=MAX_EVENTS)
    return parts


def with_members(text: bytes, added: Mapping[str, bytes]) -> bytes:
    """The compact text of an object with members at its end; those of these names that it has, nulls, go."""
    kept = text[1:-1]
    if b":null" in text:
        members = _elements(text)
        kept = b",".join(each for each in members if _member(each)[0] not in added)
    new = b",".join(b"%b:%b" % (msgspec.json.encode(name), raw) for name, raw in added.items())
    return b"{%b%b%b}" % (kept, b"," if kept else b"", new)


# --- bodies that are not strict JSON as a whole -------------------------------------------------

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_MEMBER = re.compile(rb'("(?:[^"\\]++|\\.)*+")\s*+:\s*+(.*+)', re.DOTALL)
_CLOSES = {b"[": b"]", b"{": b"}"}


def _split_invalid_json(text: bytes) -> Parts:
    if text.startswith(b"["):
        return Parts(_counted(_elements(text)), {})
    members: dict[str, bytes] = {}
    for member in _elements(text):
        name, value = _member(member)
        if name in members and name in ("event", "events", "user"):
            raise Unreadable("invalid_envelope", f"The envelope has `{name}` twice.")
        members[name] = value
    return _object(text, members)


def _member(text: bytes) -> tuple[str, bytes]:
    found = _MEMBER.fullmatch(text)
    if found is None:
        raise Unreadable("not_json", "The body is not JSON.")
    return _name(found[1]), found[2]


def _name(literal: bytes) -> str:
    try:
        return str(msgspec.json.decode(literal))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return literal.decode("utf-8", "backslashreplace")


def _elements(text: bytes) -> list[bytes]:
    """What stands between the outermost commas of a text that is one pair of brackets."""
    elements: list[bytes] = []
    open_brackets: list[bytes] = []
    begin = 1
    for token in _TOKEN.finditer(text) if text[:1] in _CLOSES else ():
        mark = token[0]
        if mark in _CLOSES:
            open_brackets.append(_CLOSES[mark])
        elif mark in (b"]", b"}"):
            if open_brackets.pop() != mark:
                raise Unreadable("not_json", "The body is not JSON: its brackets do not match.")
        elif mark == b'"':
            raise Unreadable("not_json", "The body is not JSON: a string does not end.")
        if not open_brackets or (mark == b"," and len(open_brackets) == 1):
            elements.append(text[begin : token.start()].strip())
            begin = token.end()
        if not open_brackets:
            break
    if open_brackets or not elements or begin != len(text):
        raise Unreadable("not_json", "The body is not JSON.")
    if elements == [b""]:
        return []
    if b"" in elements:
        raise Unreadable("not_json", "The body is not JSON: there is nothing between two commas.")
    return elements
