"""The consumer's AWS clients: visits in DynamoDB, notifications on EventBridge, quarantine in S3."""

from concurrent.futures import ThreadPoolExecutor

from aws.access import Access
from aws.table import Table
from consumer.consume import Ports
from consumer.event_bus import EventBus
from consumer.quarantine import S3SetAside
from consumer.settings import Settings
from consumer.store import Store

REQUESTS_AT_ONCE = 16


def ports_of(settings: Settings, access: Access) -> Ports:
    executor = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    table = Table(access.client("dynamodb"), settings.visits_table, executor)
    bus = EventBus(access.client("events"), settings.event_bus_name, executor)
    set_aside = S3SetAside(access.archive(settings.archive_bucket))
    return Ports(Store(table, bus, settings.rule, executor, settings.notification_kinds), set_aside)
