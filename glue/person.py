"""The ids of persons and devices, the links between these ids, and the rule that assigns events to a person.

An event belongs to the users that it names at its top level or in `user` (`userId`, `user_id`, `user._id`, …).
An event that names no user there belongs to the users named elsewhere in it, mainly in its metadata. If it has no
`userId` field anywhere, it also belongs to the person whose device sent it, unless others used that device too.
An event of another user that only mentions the person is kept by `forget`. Ids are equal if their strings are equal
after Unicode normalization (NFC); a whole number is equal to the string of its digits. Case matters, as everywhere in
the contract.
"""

import base64
import json
import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import msgspec

from glue.archive import MAX_INFLATED_BYTES

INFLATE_STEP = 1024  # compressed bytes; a gzip bomb can exceed the limit by about a thousand times this
MAX_DAMAGED_BYTES = 16 * 1024 * 1024  # compressed bytes; limits the work that false gzip headers cause
MAX_GZIP_LAYERS = 3
MAX_QUICK_TERMS = 50
_GZIP_HEADER = b"\x1f\x8b\x08"
_EXPONENT = re.compile(rb"[0-9][eE]")
# The characters that Unicode normalization (NFC) replaces with ASCII characters.
_NORMALIZED_TO_ASCII = tuple(each.encode() for each in "\u037e\u1fef\u212a")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


class Names(NamedTuple):
    """The ids that an event names.

    `accounts` holds values of `user._id` and `user.id`, `copies` holds user ids outside the contract's fields, and
    `texts` holds these copies and all strings in metadata.
    """

    users: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    copies: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()

    @property
    def owners(self) -> frozenset[str]:
        """Return the user ids in the contract's fields or, if there are none, those in other fields."""
        return self.users | self.accounts or self.copies


def id_text(value: object) -> str | None:
    """Return an id as text, or None if the value cannot be an id. Rejected events may contain numbers as ids."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else None


def names_in(event: object) -> Names:
    if not isinstance(event, dict):
        return Names()
    users, accounts, devices = set[str](), set[str](), set[str]()
    elsewhere: list[tuple[bool, str]] = []
    for name, value in event.items():
        plain = _plain(name)
        if plain == "user" and isinstance(value, dict):
            for inner, given in value.items():
                if (named := _plain(inner)) == "userid":
                    users.update(_ids(given))
                elif inner in ("_id", "id"):
                    accounts.update(_ids(given))
                elif named == "deviceid":
                    devices.update(_ids(given))
                else:
                    elsewhere += _elsewhere(inner, given)
        elif plain in ("userid", "user"):
            users.update(_ids(value))
        elif plain == "deviceid":
            devices.update(_ids(value))
        elif isinstance(value, dict | list):
            elsewhere += _elsewhere(name, value)
    copies = frozenset(found for is_copy, found in elsewhere if is_copy)
    texts = frozenset(found for _, found in elsewhere)
    return Names(frozenset(users), frozenset(accounts), frozenset(devices), copies, texts)


def _plain(name: str) -> str:
    """Normalize a field name, so that `userId`, `user_id`, `USER-ID` and `userid` are equal."""
    return name.lower().replace("_", "").replace("-", "")


def _ids(value: object) -> Iterator[str]:
    return (found for each in _scalars(value) if (found := id_text(each)))


def _elsewhere(name: str, value: object) -> Iterator[tuple[bool, str]]:
    """Yield (is_user_id_field, value) for the values outside the contract's fields that may be user ids.

    Every text in `metadata` may be a user id.
    """
    waiting: list[tuple[str, object, bool]] = [(name, value, False)]
    while waiting:
        name, value, is_metadata = waiting.pop()
        plain = _plain(name)
        if plain == "userid":
            yield from ((True, each) for each in _ids(value))
        elif isinstance(value, dict):
            waiting += [(inner, each, is_metadata or plain == "metadata") for inner, each in value.items()]
        elif isinstance(value, list):
            waiting += [(name, each, is_metadata or plain == "metadata") for each in value]
        elif (is_metadata or plain == "metadata") and isinstance(value, str) and (found := id_text(value)):
            yield False, found


def _scalars(value: object) -> Iterator[object]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        else:
            yield value


# --- links between ids ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """The users or devices to forget. All events of `devices` are deleted.

    Nobody else used `own_devices`, so events of these devices that name no user are deleted too.
    """

    users: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    own_devices: frozenset[str] = frozenset()

    @staticmethod
    def of(users: Iterable[str] = (), devices: Iterable[str] = ()) -> "Subject":
        return Subject(
            frozenset(filter(None, map(id_text, users))), frozenset(filter(None, map(id_text, devices)))
        )

    @cached_property
    def ids(self) -> frozenset[str]:
        return self.users | self.devices | self.own_devices

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_whole_word, sorted(self.ids, key=len, reverse=True))) or r"(?!)")

    def owns(self, event: object) -> bool:
        """Return whether an event belongs to the subject."""
        names = names_in(event)
        if names.owners & self.users or names.devices & self.devices:
            return True
        return not names.owners and bool(names.texts & self.users or names.devices & self.own_devices)

    def owns_record(self, partition_key: object, names: Names) -> bool:
        """Return whether a stream record belongs to the subject according to its partition key, a device id."""
        device = id_text(partition_key)
        return device in self.devices or (device in self.own_devices and not names.owners)

    def quickly_ruled_out(self, text: bytes) -> bool:
        """Return whether a JSON text certainly contains none of the subject's ids, as is true of nearly all lines.

        False means that the text may contain an id.
        """
        # An escape can hide an id, and a text that is not ASCII can contain one in another Unicode form.
        if b"\\" in text or len(self.ids) > MAX_QUICK_TERMS or not (text.isascii() or self._is_ascii):
            return False
        if not text.isascii() and any(each in text for each in _NORMALIZED_TO_ASCII):
            return False
        if self._has_number and _EXPONENT.search(text):  # 1.2E3 is equal to the id "1200"
            return False
        return not any(each in text for each in self._encoded)

    @cached_property
    def _is_ascii(self) -> bool:
        return all(map(str.isascii, self.ids))

    @cached_property
    def _has_number(self) -> bool:
        return any(map(str.isdecimal, self.ids))

    @cached_property
    def _encoded(self) -> list[bytes]:
        return [each.encode(errors="surrogatepass") for each in self.ids]

    def in_base64(self, text: str) -> bool:
        try:
            return self.in_bytes(base64.b64decode(text))
        except ValueError:
            return self.in_bytes(text.encode(errors="replace"))

    def in_bytes(self, body: bytes) -> bool:
        """Return whether bytes that cannot be read as events contain one of the subject's ids as a whole word."""
        return any(self._pattern.search(unicodedata.normalize("NFC", text)) for text in texts_of(body))


def _whole_word(text: str) -> str:
    before = r"(?<!\w)" if re.match(r"\w", text) else ""
    after = r"(?!\w)" if re.search(r"\w$", text) else ""
    return f"{before}{re.escape(text)}{after}"


def texts_of(body: bytes, layers: int = MAX_GZIP_LAYERS) -> Iterator[str]:
    """Yield the texts that bytes may represent: decoded as UTF-8, UTF-16 or Latin-1, unescaped, and decompressed."""
    with suppress(UnicodeDecodeError):
        text = body.decode()
        yield from _with_unescaped(text)
        if "\0" not in text:
            return
    if layers and (inner := _inflated(body)):
        yield from texts_of(inner, layers - 1)
        # Compressed bytes may contain any short id by chance, so a gzipped body is not searched as text.
        if body.startswith(_GZIP_HEADER):
            return
    yield body.decode("latin-1")
    yield from _with_unescaped(body.decode("utf-8", "replace"))
    yield from (body.decode(encoding, "replace") for encoding in ("utf-16-le", "utf-16-be"))


def _with_unescaped(text: str) -> Iterator[str]:
    yield text
    if "\\" in text:
        pairs = _ESCAPE.sub(_unescaped, text).encode("utf-16", "surrogatepass")
        yield pairs.decode("utf-16", "replace")


def _unescaped(found: re.Match[str]) -> str:
    escaped = found[1]
    if len(escaped) == 5:
        return chr(int(escaped[1:], 16))
    return escaped if escaped in '"\\/' else " "


def _inflated(body: bytes) -> bytes:
    """Decompress all gzip members, including the readable part of each damaged or truncated one.

    After a damaged member, reading continues at the next gzip header after that member's own header, because the
    member's end is unknown. Bytes between or after complete members are included, on lines of their own. Reading
    ends when the text exceeds MAX_INFLATED_BYTES or the damaged members exceed MAX_DAMAGED_BYTES. Returns b"" if no
    member can be read.
    """
    found = bytearray()
    damaged = 0
    start = body.find(_GZIP_HEADER)
    while start >= 0 and len(found) <= MAX_INFLATED_BYTES and damaged <= MAX_DAMAGED_BYTES:
        before = len(found)
        end, complete = _inflate_member(body, start, found)
        if complete:
            following = body.find(_GZIP_HEADER, end)
            if between := body[end : following if following >= 0 else None]:
                found += b"\n" + between + b"\n"
        else:
            following = body.find(_GZIP_HEADER, start + 1)
            damaged += end - start
            if len(found) > before:
                found += b"\n"
        start = following
    return bytes(found)


def _inflate_member(body: bytes, start: int, found: bytearray) -> tuple[int, bool]:
    """Append a gzip member's text to `found`; return where reading ended, and whether the member is complete."""
    member = zlib.decompressobj(zlib.MAX_WBITS | 16)
    end = start
    while end < len(body) and len(found) <= MAX_INFLATED_BYTES:
        step = body[end : end + INFLATE_STEP]
        end += len(step)
        unread = member.copy()
        try:
            found += member.decompress(step)
        except zlib.error:
            # The exception discards the text before the damage, so repeat the step byte by byte.
            with suppress(zlib.error):
                for byte in step:
                    found += unread.decompress(bytes((byte,)))
            return end, False
        if member.eof:
            return end - len(member.unused_data), True
    return end, False


@dataclass(frozen=True)
class Followed:
    """A subject, including the ids found through its events, and the ids that could not be attributed to it.

    `shared` maps each device that was also used by other users to their number. `unclear` holds the values of
    `user._id` that occur with a `userId` of the subject and with others; events that name a user only by such a value
    are not deleted.
    `mentioned_by` holds the users whose events contain an id of the subject in their metadata or another extra
    field.
    """

    subject: Subject
    shared: dict[str, int]
    unclear: frozenset[str]
    mentioned_by: frozenset[str] = frozenset()


def follow(subject: Subject, seen: Iterable[Names]) -> Followed:
    """Find a person's other ids and devices.

    A `user._id` that occurs with only one user id belongs to that user. A device that no other user has used is
    the person's own.
    """
    sightings = set(seen)
    users_of: defaultdict[str, set[str]] = defaultdict(set)
    for names in sightings:
        for account in names.accounts:
            users_of[account] |= names.users
    ids = set(subject.users)
    known = -1
    while known < len(ids):
        known = len(ids)
        for account, users in users_of.items():
            if len(users) == 1 and (account in ids or users & ids):
                ids |= {account, *users}
    used = {device for names in sightings if (names.owners or names.texts) & ids for device in names.devices}
    others: defaultdict[str, set[str]] = defaultdict(set)
    for names in sightings:
        if names.owners and not names.owners & ids:
            for device in names.devices & used:
                others[device] |= names.users or names.owners
    whole = Subject(frozenset(ids), subject.devices, frozenset(used - others.keys() - subject.devices))
    unclear = {account for account, users in users_of.items() if len(users) > 1 and users & ids} - ids
    shared = {device: len(others[device]) for device in sorted(others.keys() - subject.devices)}
    mentioned_by = {
        owner
        for names in sightings
        if (names.copies | names.texts) & ids and not names.owners & ids
        for owner in names.owners
    }
    return Followed(whole, shared, frozenset(unclear), frozenset(mentioned_by))


# --- lines of the archive -------------------------------------------------------------------------------------


def event_in(line: object) -> object:
    """Return the event in a decoded line of events/, rejected/ or set-aside/."""
    if isinstance(line, dict) and "reasons" in line and "_id" not in line:
        return line.get("event")
    return line


def names_in_line(subject: Subject, line: bytes) -> Names:
    """Return the ids in a line; none if it cannot be read as an event. `texts` contains only ids of the subject."""
    try:
        names = names_in(event_in(msgspec.json.decode(line)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Names()
    return names._replace(texts=names.texts & subject.users)


def in_line(subject: Subject, line: bytes) -> bool:
    """Return whether a line of an object under events/, rejected/ or set-aside/ contains data of the subject (the
    person or device to forget).
    """
    if b"_base64" not in line and subject.quickly_ruled_out(line):
        return False
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return subject.in_bytes(line)
    event = event_in(value)
    # Only a quarantined record has an origin next to its event.
    origin = value.get("origin") if isinstance(value, dict) and event is not value else None
    if isinstance(origin, dict) and subject.owns_record(origin.get("partition_key"), names_in(event)):
        return True
    if isinstance(event, dict):
        return subject.owns(event)
    if event is not None and subject.in_bytes(
        json.dumps(event, ensure_ascii=False, allow_nan=False).encode(errors="replace")
    ):
        return True
    bodies = [value.get(name) for name in ("body_base64", "record_base64")] if isinstance(value, dict) else []
    return any(isinstance(each, str) and subject.in_base64(each) for each in bodies)
