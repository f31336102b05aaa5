"""A mobile app's event, as far as Milkrun reads it: strict JSON, the envelope, geofence events.


Unknown types and unknown fields are kept and not looked at: apps ship before we do.
"""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

import jiter
import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

Kind = Literal["enter", "dwell", "exit"]

MAX_EVENT_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ID_CHARS = 128
MAX_ID_BYTES = 256

# Some senders write an underscore after `user`. Stages may name others (setting GEOFENCE_KINDS).
GEOFENCE_KINDS: Mapping[str, Kind] = {
    "user.entered_geofence": "enter",
    "user_entered_geofence": "enter",
    "user.dwelled_in_geofence": "dwell",
    "user_dwelled_in_geofence": "dwell",
    "user.exited_geofence": "exit",
    "user_exited_geofence": "exit",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an event cannot be taken. `code` is stable; `field` a dotted path such as `geofence.tag`, or ""."""

    code: str
    field: str
    message: str


class InvalidEvent(ValueError):  # noqa: N818 - a value more than an error
    """An event that can never be taken, with every reason that was found (at least one)."""

    def __init__(self, reasons: tuple[Reason, ...]) -> None:
        super().__init__("; ".join(f"{r.code} {r.field}: {r.message}" for r in reasons))
        self.reasons = reasons


class Fence(NamedTuple):
    """A geofence's business key: stable, unlike its `_id` (Radar's webhook samples have none)."""

    tag: str
    external_id: str


@dataclass(frozen=True, slots=True)
class GeofenceEvent:
    """One device crossing, or staying inside, one fence.

    `occurred_at` is `createdAt`, the device's clock, aware and in UTC, cut to microseconds;
    `duration_minutes` and `confidence` (0 none to 3 high) are as the app sent them, or None.
    """

    event_id: str
    type: str
    kind: Kind
    device_id: str
    fence: Fence
    occurred_at: datetime
    duration_minutes: float | None = None
    confidence: int | None = None


# --- strict JSON ----------------------------------------------------------------------------------


def parse_json(raw: bytes) -> Any:
    """One JSON value that both warehouses load; raises InvalidEvent (`invalid_json_value`) otherwise.

    Refused: what is not UTF-8, a name twice in one object, NaN and Infinity, lone surrogates, numbers
    beyond a double, depth over MAX_DEPTH. Python's own `json` lets most of these pass, and one such line
    makes Snowpipe refuse its 499 neighbours.
    """
    try:
        value = jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise invalid("invalid_json_value", "", f"This is not strict JSON: {error}.") from None
    # jiter reads 1e999 as infinity and goes 200 deep: look closer at the few texts that may hold these.
    if (raw.count(b"{") + raw.count(b"[") > MAX_DEPTH or _may_be_huge(raw)) and (
        fault := _beyond_limits(value, MAX_DEPTH)
    ):
        raise invalid("invalid_json_value", "", fault)
    return value


def compact(raw: bytes) -> bytes:
    """The same JSON text without whitespace outside strings; nothing else is touched (1.50 stays 1.50)."""
    return msgspec.json.format(raw, indent=-1)


def _may_be_huge(raw: bytes) -> bool:
    # The search alone costs more than the parsing; nearly all texts lack even the shape of such a number.
    shape = raw.translate(_DIGITS_AS_0)
    return (b"0e000" in shape or b"0e+000" in shape or _LONG in shape) and bool(_HUGE_NUMBER.search(raw))


_DIGITS_AS_0 = bytes.maketrans(b"123456789E", b"000000000e")
_LONG = b"0" * 200
_HUGE_NUMBER = re.compile(rb"[:,\[\s]-?(?:[0-9.]+[eE]\+?[0-9]{3}|[0-9]{200})")


def _beyond_limits(value: Any, depth_left: int) -> str:
    match value:
        case float():
            return "" if math.isfinite(value) else "A number is too large for a double."
        case int():
            return "" if abs(value) <= sys.float_info.max else "A number is too large for a double."
        case dict() | list():
            if not depth_left:
                return f"Values are nested deeper than {MAX_DEPTH} levels."
            inner = value.values() if isinstance(value, dict) else value
            return next(filter(None, (_beyond_limits(each, depth_left - 1) for each in inner)), "")
    return ""


# --- the envelope, and geofence events ------------------------------------------------------------


def _short(text: str) -> str:
    # A longer partition key fails a whole PutRecords call, a longer key a DynamoDB write.
    if not text.isascii() and len(text.encode()) > MAX_ID_BYTES:
        raise PydanticCustomError("string_too_long", f"at most {MAX_ID_BYTES} bytes of UTF-8")
    return text


_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _instant(text: object) -> datetime:
    if not isinstance(text, str):
        raise PydanticCustomError("string_type", "a string")
    try:
        if _RFC_3339.fullmatch(text):
            moment = datetime.fromisoformat(text.upper())
            return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise PydanticCustomError("rfc_3339", "RFC 3339 with an offset")


def _whole(number: object) -> object:
    # JSON knows one kind of number: 2.0 is 2, and some phones write it so.
    return int(number) if isinstance(number, float) and number.is_integer() else number


Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS), AfterValidator(_short)]
Instant = Annotated[
    datetime, PlainValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})
]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class User(_Model):
    """Who: only what identifies is read; everything else is personal data that nothing here needs."""

    id: Annotated[str | None, Field(alias="_id")] = None
    user_id: Annotated[Id | None, Field(alias="userId")] = None
    device_id: Annotated[Id | None, Field(alias="deviceId")] = None


class Event(_Model):
    """What every event must have. `created_at` is the device's clock, in UTC."""

    id: Annotated[Id, Field(alias="_id")]
    type: Annotated[str, Field(min_length=1)]
    created_at: Annotated[Instant, Field(alias="createdAt")]
    top_device_id: Annotated[Id | None, Field(alias="deviceId")] = None
    user: User | None = None

    @property
    def device_id(self) -> str | None:
        """`user.deviceId`, else the event's own `deviceId`."""
        return (self.user and self.user.device_id) or self.top_device_id


class GeofenceFields(_Model):
    tag: Id
    external_id: Annotated[Id, Field(alias="externalId")]


class Crossing(Event):
    """What a geofence event must have besides."""

    geofence: GeofenceFields
    duration: Annotated[float | None, Field(description="minutes")] = None
    confidence: Annotated[int | None, Field(ge=0, le=3), BeforeValidator(_whole)] = None


_EVENT = TypeAdapter(Event).validator
_CROSSING = TypeAdapter(Crossing).validator


def check(value: object, kinds: Mapping[str, Kind] = GEOFENCE_KINDS) -> Event:
    """The envelope; a Crossing if `type` alone says so. Raises InvalidEvent with every reason found."""
    if not isinstance(value, dict):
        raise invalid("not_an_object", "", "An event must be a JSON object.")
    type_ = value.get("type")
    is_crossing = isinstance(type_, str) and type_ in kinds
    try:
        event: Event = (_CROSSING if is_crossing else _EVENT).validate_python(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        raise InvalidEvent(tuple(_reason(f["type"], f["loc"], f["input"]) for f in faults)) from None
    if event.device_id is None:
        if is_crossing:
            raise invalid("missing_device", "user.deviceId", "A geofence event needs a device id.")
        if event.user is None or not (event.user.user_id or event.user.id):
            raise invalid("missing_identity", "user", "An event needs a device id or a user id.")
    return event


def geofence_event(raw: bytes, kinds: Mapping[str, Kind] = GEOFENCE_KINDS) -> GeofenceEvent:
    """One geofence event's JSON text, as it lies on Kinesis; raises InvalidEvent with every reason found."""
    event = check(parse_json(raw), kinds)
    if not isinstance(event, Crossing):
        raise invalid("not_a_geofence_event", "type", "This type is not one of the geofence types.")
    assert event.device_id is not None
    return GeofenceEvent(
        event_id=event.id,
        type=event.type,
        kind=kinds[event.type],
        device_id=event.device_id,
        fence=Fence(event.geofence.tag, event.geofence.external_id),
        occurred_at=event.created_at,
        duration_minutes=event.duration,
        confidence=event.confidence,
    )


def invalid(code: str, field: str, message: str) -> InvalidEvent:
    return InvalidEvent((Reason(code, field, message),))


_MISSING = {"_id": "missing_id", "type": "missing_type", "createdAt": "missing_created_at"}


def _reason(fault: str, path: tuple[int | str, ...], given: object) -> Reason:
    """A validation error in words that a mobile developer understands."""
    field = ".".join(map(str, path))
    if fault == "missing" or given is None:
        return Reason(_MISSING.get(field, "missing_geofence"), field, f"`{field}` is missing.")
    code, must = _FAULTS.get(fault, ("wrong_type", "be an object"))
    return Reason(code, field, f"`{field}` must {must}.")


_ID_LIMITS = f"have 1 to {MAX_ID_CHARS} characters and at most {MAX_ID_BYTES} bytes of UTF-8"
_FAULTS = {
    "string_too_short": ("field_length", _ID_LIMITS),
    "string_too_long": ("field_length", _ID_LIMITS),
    "rfc_3339": ("invalid_created_at", "be an RFC 3339 time with an offset, like 2026-11-16T08:00:00.000Z"),
    "greater_than_equal": ("out_of_range", "be 0, 1, 2 or 3"),
    "less_than_equal": ("out_of_range", "be 0, 1, 2 or 3"),
    "string_type": ("wrong_type", "be a string"),
    "int_type": ("wrong_type", "be a whole number"),
    "float_type": ("wrong_type", "be a number"),
}
