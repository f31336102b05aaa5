"""The events' shape in full: what JSON Schema says of it, and every reason why an event is not of it.

`contract.events.check` comes here only for what msgspec does not take at once; a property test holds the two
against each other.
"""

from datetime import datetime
from functools import cache
from typing import Annotated

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

from contract.events import (
    MAX_DURATION_MINUTES,
    MAX_ID_BYTES,
    MAX_ID_CHARS,
    Checked,
    Fence,
    InvalidEvent,
    Reason,
    invalid,
    plausible_minutes,
)
from contract.instants import PATTERN, instant, rejected_form


def _short(text: str) -> str:
    # A longer partition key fails a whole PutRecords call, a longer key a DynamoDB write.
    if not text.isascii() and len(text.encode()) > MAX_ID_BYTES:
        raise PydanticCustomError("string_too_long", f"at most {MAX_ID_BYTES} bytes of UTF-8")
    return text


def _instant(text: object) -> datetime:
    if not isinstance(text, str):
        raise PydanticCustomError("string_type", "a string")
    try:
        return instant(text)
    except ValueError:
        raise PydanticCustomError("instant", "a time with an offset") from None


def _whole(number: object) -> object:
    # JSON knows one kind of number: 2.0 is 2, and some phones write it so.
    return int(number) if isinstance(number, float) and number.is_integer() else number


Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS), AfterValidator(_short)]
Instant = Annotated[
    datetime,
    PlainValidator(_instant),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^{PATTERN}$",
            "description": "A time with an offset from UTC: RFC 3339, or another unambiguous form of ISO 8601.",
            "examples": ["2026-11-16T08:00:00.000Z", "2026-11-16T09:30:00+0130"],
        }
    ),
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

    @property
    def user_id(self) -> str | None:
        """`user.userId`, else `user._id`."""
        return (self.user.user_id or self.user.id) if self.user else None


class GeofenceFields(_Model):
    tag: Id
    external_id: Annotated[Id, Field(alias="externalId")]


class Crossing(Event):
    """What a geofence event must have besides."""

    geofence: GeofenceFields
    duration: Annotated[
        float | None,
        Field(description=f"Minutes, from 0 to {MAX_DURATION_MINUTES}; any other number counts as unknown."),
    ] = None
    confidence: Annotated[int | None, Field(ge=0, le=3), BeforeValidator(_whole)] = None


_EVENT = TypeAdapter(Event).validator
_CROSSING = TypeAdapter(Crossing).validator


def check(value: object, is_crossing: bool) -> Checked:
    if not isinstance(value, dict):
        raise invalid("not_an_object", "", "An event must be a JSON object.")
    try:
        event: Event = (_CROSSING if is_crossing else _EVENT).validate_python(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        raise InvalidEvent(tuple(_reason(f["type"], f["loc"], f["input"]) for f in faults)) from None
    if event.device_id is None:
        if is_crossing:
            raise invalid("missing_device", "user.deviceId", "A geofence event needs a device id.")
        if not event.user_id:
            raise invalid("missing_identity", "user", "An event needs a device id or a user id.")
    if not isinstance(event, Crossing):
        return Checked(event.id, event.type, event.created_at, event.device_id, user_id=event.user_id)
    fence = Fence(event.geofence.tag, event.geofence.external_id)
    duration = plausible_minutes(event.duration)
    return Checked(
        event.id,
        event.type,
        event.created_at,
        event.device_id,
        fence,
        duration,
        event.confidence,
        event.user_id,
    )


_MISSING = {"_id": "missing_id", "type": "missing_type", "createdAt": "missing_created_at"}


def _reason(fault: str, path: tuple[int | str, ...], given: object) -> Reason:
    """A validation error in words that a mobile developer understands."""
    if fault == "missing" or given is None:
        return _missing(path)
    reason = _plain_reason(fault, path)
    if path != ("createdAt",) or not (form := _form_of(given)):
        return reason
    return Reason(reason.code, reason.field, f"{reason.message[:-1]}; this is {form}.")


@cache
def _missing(path: tuple[int | str, ...]) -> Reason:
    field = ".".join(map(str, path))
    return Reason(_MISSING.get(field, "missing_geofence"), field, f"`{field}` is missing.")


@cache
def _plain_reason(fault: str, path: tuple[int | str, ...]) -> Reason:
    field = ".".join(map(str, path))
    code, must = _FAULTS.get(fault, ("wrong_type", "be an object"))
    return Reason(code, field, f"`{field}` must {must}.")


def _form_of(given: object) -> str:
    """Return the name of the form of a time that cannot be accepted, never the text itself."""
    if isinstance(given, str):
        return rejected_form(given)
    return "" if isinstance(given, bool | list | dict) else "a number, such as an epoch"


_ID_LIMITS = f"have 1 to {MAX_ID_CHARS} characters and at most {MAX_ID_BYTES} bytes of UTF-8"
_FAULTS = {
    "string_too_short": ("field_length", "not be empty"),
    "string_too_long": ("field_length", _ID_LIMITS),
    "instant": ("invalid_created_at", "be a time with an offset, like 2026-11-16T08:00:00.000Z"),
    "greater_than_equal": ("out_of_range", "be 0, 1, 2 or 3"),
    "less_than_equal": ("out_of_range", "be 0, 1, 2 or 3"),
    "string_type": ("wrong_type", "be a string"),
    "int_type": ("wrong_type", "be a whole number"),
    "float_type": ("wrong_type", "be a number"),
}
