"""The consumer's settings on a stage."""

import re
from datetime import timedelta
from typing import Annotated

import msgspec

from consumer.notifications import ALL_KINDS, NotificationKind
from consumer.visits import DEFAULT_RULE, Rule
from contract.settings import Name, StageSettings

_KIND = f"({'|'.join(sorted(ALL_KINDS))})"
_KINDS = f"^ *(none|{_KIND}( *, *{_KIND})*) *$"


class Settings(StageSettings, frozen=True, kw_only=True, rename="upper"):
    default_if_empty = ("MERGE_GAP_SECONDS", "MIN_CONFIDENCE")

    visits_table: Annotated[str, msgspec.Meta(min_length=3)]
    event_bus_name: Name
    stream_name: str = ""  # if given, records of other streams are quarantined
    merge_gap_seconds: Annotated[int, msgspec.Meta(ge=0)] = int(DEFAULT_RULE.merge_gap.total_seconds())
    min_confidence: Annotated[int, msgspec.Meta(ge=0, le=3)] = DEFAULT_RULE.min_confidence
    # The kinds to publish, separated by commas, or `none`.
    notifications: Annotated[str, msgspec.Meta(pattern=_KINDS)] = ",".join(ALL_KINDS)

    @property
    def notification_kinds(self) -> frozenset[NotificationKind]:
        return ALL_KINDS.intersection(re.findall(_KIND, self.notifications))

    @property
    def rule(self) -> Rule:
        return Rule(timedelta(seconds=self.merge_gap_seconds), self.min_confidence)
