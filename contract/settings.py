"""Settings that several functions share, read once from the environment variables of a process."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import msgspec

from contract.geofence_event_types import GEOFENCE_KINDS, Kind
from contract.logs import LoggableError
from contract.metrics import Wanted

type Name = Annotated[str, msgspec.Meta(min_length=1)]
type TypeName = Annotated[str, msgspec.Meta(max_length=64)]


class SettingsError(LoggableError, ValueError):
    """An environment variable is missing or invalid; the message names it."""


class StageSettings(msgspec.Struct, frozen=True, kw_only=True, rename="upper"):
    """The settings of a stage. Each field is read from the environment variable of the same name in capitals.

    The class uses msgspec, because importing pydantic would take 40 % of a cold start.
    """

    json_variables: ClassVar[tuple[str, ...]] = ("GEOFENCE_KINDS",)
    default_if_empty: ClassVar[tuple[str, ...]] = ()  # "" means the default; never for a security setting

    archive_bucket: Annotated[str, msgspec.Meta(min_length=3)]
    stage: str = "local"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics: Wanted = "all"
    # As JSON: {"user.entered_geofence": "enter", …}
    geofence_kinds: Mapping[TypeName, Kind] = msgspec.field(default_factory=lambda: GEOFENCE_KINDS)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings from environment variables. Raises SettingsError."""
        values: dict[str, object] = {
            name: value for name, value in environment.items() if value or name not in cls.default_if_empty
        }
        for name in cls.json_variables:
            try:
                if decoded := msgspec.json.decode(environment.get(name) or "null"):
                    values[name] = decoded
                else:
                    values.pop(name, None)
            except msgspec.MsgspecError as error:
                raise SettingsError(f"{name}: {error}") from None
        try:
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(str(error)) from None
