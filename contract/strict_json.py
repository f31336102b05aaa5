"""Strict JSON: JSON that both Snowflake and DuckDB can load."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jiter
import msgspec

from contract.event_limits import MAX_DEPTH
from contract.events import invalid

_DECODER, _ENCODER = msgspec.json.Decoder(), msgspec.json.Encoder()
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_LONG_BY_20 = b"0" * 15  # every 20th digit of an integer with at least 309 digits, too large for a double
_LONG_INTEGER = re.compile(rb"(?<![-+.0-9eE])-?[0-9]{309,}+(?![.eE])")
_BRACES_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_json(raw: bytes, *, integers_fit: bool = False) -> Any:
    """Parse one strict JSON value. Raises InvalidEvent (`invalid_json_value`) if the text is not strict JSON.

    Rejects bytes that are not UTF-8, duplicate names in an object, NaN and Infinity, lone surrogates, numbers too large
    for a double, and more than MAX_DEPTH levels. Python's own `json` accepts most of these, and one such line makes
    Snowpipe reject the whole file of up to 500 lines. No step loops over the text in Python, because malicious texts
    must not take much CPU. Set `integers_fit` if `all_integers_fit` has shown that no integer is too large.
    """
    # These two checks assume that the text is otherwise valid JSON; if it is not, it is rejected in any case.
    if not integers_fit and not all_integers_fit(raw) and _has_huge_integer(raw):
        raise invalid("invalid_json_value", "", "A number is too large for a double.")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_too_deep(raw):
        raise invalid("invalid_json_value", "", f"Values are nested deeper than {MAX_DEPTH} levels.")
    try:
        value = _DECODER.decode(raw)
        # A text is strict if the encoder writes the same bytes, as for nearly all texts. Others need jiter (slower).
        if _ENCODER.encode(value) != raw:
            jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except (ValueError, RecursionError) as error:
        raise invalid("invalid_json_value", "", f"This is not strict JSON: {error}.") from None
    return value


def compact(raw: bytes) -> bytes:
    """Remove whitespace outside strings from a JSON text; nothing else changes (1.50 stays 1.50)."""
    return msgspec.json.format(raw, indent=-1)


def with_members(text: bytes, added: Mapping[str, bytes]) -> bytes:
    """Append members to an object's compact text; remove existing ones with the same names, which must be null."""
    if b":null" in text:
        members = _MEMBERS.decode(text)
        if members.keys() & added.keys():
            text = msgspec.json.encode({name: raw for name, raw in members.items() if name not in added})
    new = b",".join(b"%b:%b" % (msgspec.json.encode(name), raw) for name, raw in added.items())
    return b"%b%b%b}" % (text[:-1], b"," if len(text) > 2 else b"", new)


def all_integers_fit(text: bytes) -> bool:
    """Return False if an integer in the text, or in texts joined with spaces, may be too large for a double."""
    # `find` takes a third of the time of `in`, which first tries to convert `_LONG_BY_20` to an integer.
    return text[::20].translate(_DIGITS_AS_0).find(_LONG_BY_20) < 0


def _has_huge_integer(raw: bytes) -> bool:
    return any(math.isinf(float(digits)) for digits in _LONG_INTEGER.findall(_outside_strings(raw)))


def _is_too_deep(raw: bytes) -> bool:
    """Return whether any brackets are left after removing the innermost pairs MAX_DEPTH times."""
    brackets = _outside_strings(raw).translate(_BRACES_AS_BRACKETS, _NOT_BRACKETS)
    if b"[" * (MAX_DEPTH + 1) in brackets:
        return True
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _outside_strings(raw: bytes) -> bytes:
    """Return the parts of a valid JSON text that are outside its strings."""
    return b" ".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
