"""Send notifications to the stage's EventBridge bus."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import batched

import msgspec

from aws.json_client import JsonClient
from aws.retry import send_until_done
from consumer.notifications import Notification

ENTRIES_A_REQUEST = 10  # the maximum of PutEvents
SOURCE = "milkrun.visits"


@dataclass(frozen=True, slots=True)
class EventBus:
    """The EventBridge bus `name`. Subscribers must de-duplicate by `detail.id` and order by `detail.version`."""

    events: JsonClient
    name: str
    executor: Executor

    def publish(self, notifications: Sequence[Notification]) -> dict[str, Exception]:
        failures: dict[str, Exception] = {}
        groups = ({n.id: n for n in some} for some in batched(notifications, ENTRIES_A_REQUEST, strict=False))
        for failed in self.executor.map(lambda some: send_until_done(self._put, some, "EventBridge"), groups):
            failures |= failed
        return failures

    def _put(self, some: Sequence[Notification]) -> list[str]:
        bus = {"EventBusName": self.name, "Source": SOURCE}
        entries = [
            bus | {"DetailType": n.kind, "Detail": msgspec.json.encode(n.detail).decode()} for n in some
        ]
        # PutEvents returns 200 even if single entries failed, and lists the results in request order.
        results = self.events.put_events(Entries=entries)["Entries"]
        return [n.id for n, result in zip(some, results, strict=True) if "ErrorCode" in result]
