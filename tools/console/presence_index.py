"""The known enter events at exclusive places, and the open visits that these events contradict.

A device can be at only one exclusive place at a time. The rule is in `ops/presence_rule.py`. Enter events come
from visits (the first enter event of each), from archived events and, if there is a contradiction, from the visits
table, which also contains the later enter events of merged visits.
"""

from collections.abc import Collection, Iterable, Mapping

from consumer.visits import Pair, content_of
from contract.events import Fence, GeofenceEvent
from ops.presence_rule import EXCLUSIVE_TAGS, contradictions, position_of

MAX_ENTERS = 20
"""The maximum number of enter events per device. The presence rule uses only the device's last enter event at
each place and the enter event that follows it.
"""

type Known = tuple[Fence, str]


class PresenceIndex:
    def __init__(self, exclusive_tags: Collection[str] = EXCLUSIVE_TAGS) -> None:
        self._exclusive_tags = frozenset(exclusive_tags)
        self._enters: dict[str, dict[Known, GeofenceEvent]] = {}
        self._found: dict[str, Mapping[Pair, GeofenceEvent]] = {}

    def is_exclusive(self, fence: Fence) -> bool:
        return fence.tag in self._exclusive_tags

    def learn(self, event: GeofenceEvent) -> bool:
        """Add an enter event; return whether the event changed the device's contradictions.

        If events have the same id but different content, the one that sorts first by `content_of` counts.
        """
        if event.kind != "enter" or not self.is_exclusive(event.fence):
            return False
        enters = self._enters.setdefault(event.device_id, {})
        known = enters.get((event.fence, event.event_id))
        # An event of type "" comes from a visit, so only its key fields are known.
        if known and known.type and (not event.type or content_of(known) <= content_of(event)):
            return False
        if known and not event.type:
            return False
        before = self._of(event.device_id)
        enters[event.fence, event.event_id] = event
        if len(enters) > MAX_ENTERS:
            oldest = min(enters.values(), key=position_of)
            del enters[oldest.fence, oldest.event_id]
        self._found.pop(event.device_id, None)
        return self._of(event.device_id) != before

    def replace(self, device_id: str, events: Iterable[GeofenceEvent]) -> bool:
        """Replace a device's enter events with those from the visits table; return whether the device's
        contradictions changed.
        """
        before = self._of(device_id)
        self._enters[device_id] = {(event.fence, event.event_id): event for event in events}
        self._found.pop(device_id, None)
        return self._of(device_id) != before

    def contradicted_by(self, pair: Pair) -> GeofenceEvent | None:
        return self._of(pair.device_id).get(pair)

    def _of(self, device_id: str) -> Mapping[Pair, GeofenceEvent]:
        found = self._found.get(device_id)
        if found is None:
            enters = self._enters.get(device_id, {})
            found = contradictions(enters.values(), self._exclusive_tags) if len(enters) > 1 else {}
            self._found[device_id] = found
        return found
