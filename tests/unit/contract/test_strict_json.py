"""Test that the strict parser accepts only strict JSON, and that `compact` removes only whitespace."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.events import InvalidEvent
from contract.strict_json import compact, parse_json


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"a":1,"a":1}', id="a repeated name"),
        pytest.param(b'{"a":[{"b":1,"\\u0062":2}]}', id="a repeated name, nested and escaped"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":-Infinity}', id="Infinity"),
        pytest.param(b'{"a":1e999}', id="a number that exceeds a double"),
        pytest.param(b'{"a":[1E+400]}', id="an exponent with a plus sign that exceeds a double"),
        pytest.param(b'{"a":1e0000400}', id="an exponent with leading zeros that exceeds a double"),
        pytest.param(b'{"a":' + b"9" * 310 + b"}", id="an integer that exceeds a double"),
        pytest.param(
            b'{"a":' + b"9" * 300 + b"e20}", id="a long integer part whose exponent exceeds a double"
        ),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", id="a number of 5,000 digits"),
        pytest.param(b'{"a":"\\ud800"}', id="a lone surrogate"),
        pytest.param(b'{"\\udc00":1}', id="a lone surrogate in a name"),
        pytest.param(b'{"a":"\xff"}', id="not UTF-8"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="a surrogate in UTF-8"),
        pytest.param(b'{"a":"\x01"}', id="a control character"),
        pytest.param(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", id="33 levels"),
        pytest.param(b"[" * 100_000, id="a hundred thousand brackets"),
        pytest.param(b'{"a":01}', id="a leading zero"),
        pytest.param(b'{"a":1,}', id="a comma too many"),
        pytest.param(b'{"a":1} x', id="text after it"),
        pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_text_that_is_not_strict_json_is_rejected(raw: bytes) -> None:
    with pytest.raises(InvalidEvent) as caught:
        parse_json(raw)
    assert [reason.code for reason in caught.value.reasons] == ["invalid_json_value"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":' + b"[" * 31 + b"]" * 31 + b"}",
        b'{"a":' + b"[" * 31 + b"]" * 31 + b',"b":[]}',
        b'{"a":1e308,"b":-1.7976931348623157e308}',
        b'{"a":' + b"9" * 308 + b"}",
        b'{"a":"\\ud83d\\ude00","b":"1e999","c":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}',
        b'{"e829":1,"a":1e-999}',
        b'{"":0}',
    ],
)
def test_unusual_but_valid_json_is_accepted(raw: bytes) -> None:
    assert parse_json(raw) == json.loads(raw)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abé"), inner, max_size=3),
    max_leaves=6,
)
EDITS = st.sampled_from(
    [b"", b'"a":1,', b'"\\u0061":1,', b"9" * 310, b"e400", b"NaN", b"\xff", b"\\", b'"', b"0", b" "]
)


@given(VALUES, EDITS, st.integers(0, 200), st.booleans())
@settings(deadline=None, max_examples=300)
def test_strict_parser_and_pythons_json_module_read_accepted_json_alike(
    value: object, edit: bytes, at: int, escaped: bool
) -> None:
    """If encoding the parsed value gives the same text, `parse_json` skips its second parser. Such texts must be strict
    JSON, too.
    """
    text = json.dumps(value, ensure_ascii=escaped, separators=(",", ":")).encode("utf-8", "surrogatepass")
    raw = text[:at] + edit + text[at:]
    try:
        read = parse_json(raw)
    except InvalidEvent:
        return

    def no_name_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    def finite(digits: str) -> float:
        assert math.isfinite(float(digits))
        return float(digits)

    assert json.loads(raw, object_pairs_hook=no_name_twice, parse_float=finite, parse_constant=finite) == read


@given(VALUES)
@settings(deadline=None, max_examples=100)
def test_json_written_by_a_strict_encoder_is_accepted(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


def test_compact_removes_only_whitespace_outside_strings() -> None:
    raw = b' {"a" :\t"x  \\u0041\\n" ,\r\n "n": [ 1.50 , 1E5 , -0 ] } '
    assert compact(raw) == b'{"a":"x  \\u0041\\n","n":[1.50,1E5,-0]}'
