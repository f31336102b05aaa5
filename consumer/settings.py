"""What a stage tells its consumer, read once from the environment."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import from_json

from consumer.visit_diff import ALL_KINDS, NotificationKind, Rule
from contract.events import GEOFENCE_KINDS, Kind


def _kinds_in(text: object) -> object:
    return [name.strip() for name in text.split(",") if text != "none"] if isinstance(text, str) else text


class Settings(BaseModel):
    """A missing or wrong name fails the first batch, and the message names it."""

    model_config = ConfigDict(frozen=True)

    archive_bucket: Annotated[str, Field(alias="ARCHIVE_BUCKET", min_length=3)]
    visits_table: Annotated[str, Field(alias="VISITS_TABLE", min_length=3)]
    event_bus_name: Annotated[str, Field(alias="EVENT_BUS_NAME", min_length=1)]
    stream_name: Annotated[
        str, Field(alias="STREAM_NAME", description="if given, records of others are set aside")
    ] = ""
    stage: Annotated[str, Field(alias="STAGE")] = "local"
    log_level: Annotated[str, Field(alias="LOG_LEVEL")] = "INFO"
    merge_gap_seconds: Annotated[int, Field(alias="MERGE_GAP_SECONDS", ge=0)] = 120
    min_confidence: Annotated[int, Field(alias="MIN_CONFIDENCE", ge=0, le=3)] = 0
    notifications: Annotated[
        frozenset[NotificationKind],
        Field(alias="NOTIFICATIONS", description="those to publish, with commas between them, or none"),
        BeforeValidator(_kinds_in),
    ] = ALL_KINDS
    geofence_kinds: Annotated[
        Mapping[Annotated[str, Field(max_length=64)], Kind],
        Field(alias="GEOFENCE_KINDS", description='JSON, {"user.entered_geofence": "enter", …}'),
        BeforeValidator(lambda text: from_json(text) if isinstance(text, str) and text else GEOFENCE_KINDS),
    ] = GEOFENCE_KINDS

    @property
    def rule(self) -> Rule:
        return Rule(timedelta(seconds=self.merge_gap_seconds), self.min_confidence)
