"""Why an event is invalid: every reason, in words for a mobile developer.

`contract.events.check` comes here only for events that it cannot accept.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeGuard

from contract.events import MAX_ID_BYTES, MAX_ID_CHARS, Reason, is_id
from contract.instants import instant, rejected_form


class _Fault(NamedTuple):
    code: str
    must: str


class _Field(NamedTuple):
    """`missing` is the code if the field is absent or null, "" if it may be."""

    check: "Callable[[object], _Fault | None] | dict[str, _Field]"
    missing: str = ""


def reasons_of(value: object, is_crossing: bool) -> Iterator[Reason]:
    """Yield at least one reason if `contract.events.check` does not accept the value."""
    if not isinstance(value, dict):
        yield Reason("not_an_object", "", "An event must be a JSON object.")
        return
    faults = list(_reasons(value, _CROSSING if is_crossing else _EVENT))
    yield from faults
    user = value.get("user") or {}
    if faults or user.get("deviceId") or value.get("deviceId"):
        return
    if is_crossing:
        yield Reason("missing_device", "user.deviceId", "A geofence event needs a device id.")
    elif not (user.get("userId") or user.get("_id")):
        yield Reason("missing_identity", "user", "An event needs a device id or a user id.")


def _reasons(value: Mapping[str, object], fields: Mapping[str, _Field], path: str = "") -> Iterator[Reason]:
    for name, (check, missing) in fields.items():
        field, given = f"{path}{name}", value.get(name)
        if given is None:
            if missing:
                yield Reason(missing, field, f"`{field}` is missing.")
        elif isinstance(check, dict):
            if isinstance(given, dict):
                yield from _reasons(given, check, f"{field}.")
            else:
                yield Reason("wrong_type", field, f"`{field}` must be an object.")
        elif fault := check(given):
            yield Reason(fault.code, field, f"`{field}` must {fault.must}.")


def _string(given: object) -> _Fault | None:
    return None if isinstance(given, str) else _Fault("wrong_type", "be a string")


def _filled(given: object) -> _Fault | None:
    return _string(given) or (None if given else _Fault("field_length", "not be empty"))


def _id(given: object) -> _Fault | None:
    limits = f"have 1 to {MAX_ID_CHARS} characters and at most {MAX_ID_BYTES} bytes of UTF-8"
    return _filled(given) or (None if is_id(given) else _Fault("field_length", limits))


def _time(given: object) -> _Fault | None:
    if _is_number(given):
        return _Fault("wrong_type", "be a string; this is a number, such as an epoch")
    if not isinstance(given, str):
        return _string(given)
    try:
        instant(given)
    except ValueError:
        form = rejected_form(given)  # never the text itself
        must = "be a time with an offset, like 2026-11-16T08:00:00.000Z"
        return _Fault("invalid_created_at", f"{must}; this is {form}" if form else must)
    return None


def _is_number(given: object) -> TypeGuard[int | float]:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _number(given: object) -> _Fault | None:
    return None if _is_number(given) else _Fault("wrong_type", "be a number")


def _confidence(given: object) -> _Fault | None:
    if not _is_number(given) or given % 1:
        return _Fault("wrong_type", "be a whole number")
    return None if given in (0, 1, 2, 3) else _Fault("out_of_range", "be 0, 1, 2 or 3")


_EVENT: Mapping[str, _Field] = {
    "_id": _Field(_id, "missing_id"),
    "type": _Field(_filled, "missing_type"),
    "createdAt": _Field(_time, "missing_created_at"),
    "deviceId": _Field(_id),
    "user": _Field({"_id": _Field(_string), "userId": _Field(_id), "deviceId": _Field(_id)}),
}
_GEOFENCE = {name: _Field(_id, "missing_geofence") for name in ("tag", "externalId")}
_CROSSING: Mapping[str, _Field] = {
    **_EVENT,
    "geofence": _Field(_GEOFENCE, "missing_geofence"),
    "duration": _Field(_number),
    "confidence": _Field(_confidence),
}
