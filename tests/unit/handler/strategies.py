"""Hypothesis strategies for valid and invalid request bodies."""

import gzip
import json
import re
from collections.abc import Mapping

from hypothesis import strategies as st

from contract.geofence_event_types import GEOFENCE_KINDS
from contract.instants import PATTERN
from tests.unit.contract.instants import ACCEPTED, REJECTED

# Python's json module writes lone surrogates and NaN without an error, so they are drawn too.
_odd_text = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["\ud800", "\udc00x", "\x00", "\u2028", "e999"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**320)
    | st.floats()
    | _odd_text
    | st.sampled_from([1e308, 1e-320, "1e999", "日" * 90]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_odd_text, inner, max_size=3),
    max_leaves=6,
)
ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
times = st.sampled_from([text for text, _ in ACCEPTED])
users = st.fixed_dictionaries({"deviceId": ids}, optional={"userId": ids, "_id": ids})
fences = st.fixed_dictionaries({"tag": ids, "externalId": ids}, optional={"description": values})


pings = st.fixed_dictionaries(
    {
        "deviceId": ids,
        "latitude": st.floats(-90, 90),
        "longitude": st.integers(-180, 180),
        "updatedAt": times,
    },
    optional={"_id": st.none(), "type": st.none(), "user": st.none() | users, "accuracy": values},
)
broken_pings = st.builds(
    lambda ping, field, value: ping | {field: value},
    pings,
    st.sampled_from(["deviceId", "latitude", "longitude", "updatedAt", "_id", "type", "user"]),
    # Times that the schema accepts although the handler rejects them are left out. They are dates that do not exist,
    # which no pattern can express, and times with a final newline, before which `$` also matches in Python.
    values | st.sampled_from([text for text, _ in REJECTED if not re.search(f"^{PATTERN}$", text)]),
)


@st.composite
def events(draw: st.DrawFn) -> dict[str, object]:
    """Draw an event whose known fields are valid and whose unknown fields may have any value."""
    event: dict[str, object] = draw(
        st.fixed_dictionaries(
            {"_id": ids, "createdAt": times, "user": users}, optional={"metadata": values, "x": values}
        )
    )
    event["type"] = draw(st.sampled_from([*GEOFENCE_KINDS, "user.updated_trip", "pickup.finished"]))
    if event["type"] in GEOFENCE_KINDS:
        event["geofence"] = draw(fences)
    return event


@st.composite
def broken_events(draw: st.DrawFn) -> object:
    """Draw an event in which one field is missing or arbitrary, or a value that is not an event."""
    event = draw(events())
    field = draw(st.sampled_from(["_id", "type", "createdAt", "user", "geofence", "confidence", "duration"]))
    if draw(st.booleans()):
        event.pop(field, None)
    else:
        event[field] = draw(values)
    return draw(st.sampled_from([event, event, event, draw(values)]))


@st.composite
def written(draw: st.DrawFn, value: object) -> bytes:
    """Draw the JSON text of a value, with or without indentation, sometimes with a repeated name or a damaged part."""
    text = json.dumps(
        value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1])), allow_nan=True
    )
    if draw(st.integers(0, 9)) == 0:
        text = text.replace('"_id":', '"_id":"twice","_id":', 1)
    raw = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 19)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    return raw


lists = st.lists(st.one_of(events(), events(), broken_events(), pings, broken_pings), max_size=5)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Mapping[str, str]]:
    """Draw the body and the headers of a request."""
    headers = {"Content-Type": "application/json"}
    form = draw(st.sampled_from(["array", "array", "envelope", "single", "ndjson", "bytes"]))
    given = draw(lists)
    given += given[:1] * draw(st.integers(0, 1))
    if form == "array":
        body = draw(written(given))
    elif form == "envelope":
        whole: dict[str, object] = draw(
            st.sampled_from([{"events": given}, {"event": given[:1] or None}, {"event": given, "events": 3}])
        )
        body = draw(
            written(whole | draw(st.sampled_from([{}, {"user": draw(users)}, {"user": draw(values)}])))
        )
    elif form == "single":
        body = draw(written(draw(events())))
    elif form == "ndjson":
        headers["Content-Type"] = "application/x-ndjson"
        body = b"\n".join(json.dumps(each).encode() for each in given) + draw(st.sampled_from([b"", b"\n"]))
    else:
        body = draw(st.binary(max_size=60))
    if draw(st.booleans()):
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body, mtime=0)
        if draw(st.integers(0, 9)) == 0:
            body = body[: len(body) // 2]
    return body, headers
