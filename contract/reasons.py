"""The reasons why an event is invalid, in words for mobile developers.

`contract.event_rules.check` imports this module only for invalid events.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeGuard

from contract.event_limits import MAX_ID_BYTES, MAX_ID_CHARS
from contract.event_rules import is_id
from contract.events import Reason
from contract.instants import instant, rejected_form


class _Rule(NamedTuple):
    """A rule for the value of a field. `must` completes the sentence "the field must …"."""

    passes: Callable[[object], bool]
    code: str
    must: str


class _Field(NamedTuple):
    """The rules for a field. `missing` is the rejection code if the field is absent or null, "" if it is optional."""

    rules: "tuple[_Rule, ...] | dict[str, _Field]"
    missing: str = ""


def reasons_of(value: object, is_crossing: bool) -> Iterator[Reason]:
    """Yield the reasons why a value is not a valid event; none if `contract.event_rules.check` accepts it."""
    if not isinstance(value, dict):
        yield Reason("not_an_object", "", "An event must be a JSON object.")
        return
    faults = list(_reasons(value, _CROSSING if is_crossing else _EVENT))
    yield from faults
    user = value.get("user") or {}
    if faults or user.get("deviceId") or value.get("deviceId"):
        return
    if is_crossing:
        yield Reason("missing_device", "user.deviceId", f"A geofence event needs a device id{_VALID_ID}")
    elif not (user.get("userId") or user.get("_id")):
        yield Reason("missing_identity", "user", f"An event needs a device id or a user id{_VALID_ID}")


def _reasons(value: Mapping[str, object], fields: Mapping[str, _Field], path: str = "") -> Iterator[Reason]:
    for name, (rules, missing) in fields.items():
        field, given = f"{path}{name}", value.get(name)
        if given is None:
            if missing:
                hint = _NO_PING if field == "_id" and "latitude" in value else ""
                yield Reason(missing, field, f"`{field}` is missing.{hint}")
        elif isinstance(rules, tuple):
            for passes, code, must in rules:
                if not passes(given):
                    # Name the format of the time instead of quoting it, because the text may be personal data.
                    form = rejected_form(str(given)) if code == "invalid_created_at" else ""
                    yield Reason(code, field, f"`{field}` must {must}{form and f'; this is {form}'}.")
                    break
        elif isinstance(given, dict):
            yield from _reasons(given, rules, f"{field}.")
        else:
            yield Reason("wrong_type", field, f"`{field}` must be an object.")


def _is_number(given: object) -> TypeGuard[int | float]:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _is_instant(given: object) -> bool:
    try:
        return bool(instant(str(given)))
    except ValueError:
        return False


_STRING = (_Rule(lambda x: isinstance(x, str), "wrong_type", "be a string"),)
_FILLED = (*_STRING, _Rule(bool, "field_length", "not be empty"))
_ID_LIMITS = f"have 1 to {MAX_ID_CHARS} characters and at most {MAX_ID_BYTES} bytes of UTF-8"
_VALID_ID = ": a valid string in the event, or in the envelope's `user`."  # invalid ids there are not copied
_ID = (*_FILLED, _Rule(is_id, "field_length", _ID_LIMITS))
_TIME = (
    _Rule(lambda x: not _is_number(x), "wrong_type", "be a string, not a number such as a Unix timestamp"),
    *_STRING,
    _Rule(_is_instant, "invalid_created_at", "be a time with an offset, like 2026-11-16T08:00:00.000Z"),
)
_NO_PING = " A position needs `deviceId`, numeric `latitude` and `longitude`, and `updatedAt` with an offset."
_CONFIDENCE = (
    _Rule(lambda x: _is_number(x) and not x % 1, "wrong_type", "be a whole number"),
    _Rule(lambda x: x in (0, 1, 2, 3), "out_of_range", "be 0, 1, 2 or 3"),
)
_EVENT: Mapping[str, _Field] = {
    "_id": _Field(_ID, "missing_id"),
    "type": _Field(_FILLED, "missing_type"),
    "createdAt": _Field(_TIME, "missing_created_at"),
    "deviceId": _Field(_ID),
    "user": _Field({"_id": _Field(_STRING), "userId": _Field(_ID), "deviceId": _Field(_ID)}),
}
_GEOFENCE = {name: _Field(_ID, "missing_geofence") for name in ("tag", "externalId")}
_CROSSING: Mapping[str, _Field] = {
    **_EVENT,
    "geofence": _Field(_GEOFENCE, "missing_geofence"),
    "duration": _Field((_Rule(_is_number, "wrong_type", "be a number"),)),
    "confidence": _Field(_CONFIDENCE),
}
