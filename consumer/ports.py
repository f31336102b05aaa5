"""The consumer's AWS clients: visits in DynamoDB, notifications on EventBridge, quarantine in S3."""

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched

import msgspec

from aws.access import Access
from aws.archive import Archive
from aws.json_client import JsonClient
from aws.retry import send_until_done
from aws.table import Table
from consumer.consume import Poison, Ports
from consumer.notifications import Notification
from consumer.settings import Settings
from consumer.store import Store
from contract.objects import lines_object, quarantine_line

REQUESTS_AT_ONCE = 16
ENTRIES_A_REQUEST = 10
SOURCE = "milkrun.visits"


def ports_of(settings: Settings, access: Access) -> Ports:
    executor = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    table = Table(access.client("dynamodb"), settings.visits_table, executor)
    bus = EventBus(access.client("events"), settings.event_bus_name, executor)
    set_aside = S3SetAside(access.archive(settings.archive_bucket))
    return Ports(Store(table, bus, settings.rule, executor, settings.notification_kinds), set_aside)


@dataclass(frozen=True, slots=True)
class EventBus:
    """The bus `name`. Receivers de-duplicate by `detail.id` and order by `detail.version`."""

    events: JsonClient
    name: str
    executor: Executor

    def publish(self, notifications: Sequence[Notification]) -> dict[str, Exception]:
        failures: dict[str, Exception] = {}
        for failed in self.executor.map(
            lambda some: send_until_done(self._put, {notice.id: notice for notice in some}),
            batched(notifications, ENTRIES_A_REQUEST, strict=False),
        ):
            failures |= failed
        return failures

    def _put(self, notifications: Sequence[Notification]) -> list[str]:
        answer = self.events.put_events(
            Entries=[
                {
                    "EventBusName": self.name,
                    "Source": SOURCE,
                    "DetailType": notice.kind,
                    "Detail": msgspec.json.encode(notice.detail).decode(),
                }
                for notice in notifications
            ]
        )
        # PutEvents returns 200 even if single entries failed, and lists the results in request order.
        return [
            n.id for n, result in zip(notifications, answer["Entries"], strict=True) if "ErrorCode" in result
        ]


@dataclass(frozen=True, slots=True)
class S3SetAside:
    """The prefix `set-aside/`: one object per batch. Its key contains the hash of its content."""

    archive: Archive

    def keep(self, poison: Sequence[Poison]) -> str:
        lines = [quarantine_line(p.reasons, p.record.data, origin(p)) for p in poison]
        aside = lines_object("set-aside", lines, poison[0].record.arrived_at)
        self.archive.store(aside, {})
        return aside.key


def origin(poison: Poison) -> dict[str, str]:
    record = poison.record
    return {
        "stream": record.stream,
        "shard_id": record.shard_id,
        "sequence_number": record.sequence_number,
        "sub_sequence_number": str(record.sub_sequence_number),
        "partition_key": record.partition_key,
        "arrived_at": record.arrived_at.isoformat(),
    }
