"""The monthly bill of a stage at list prices, calculated from its load and its settings."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from contract import logs
from contract.metrics import ALARMED, METRICS, unit_of

PRICES = Path(__file__).with_name("prices.yml")
MEASURED = Path(__file__).with_name("measured.yml")

DAYS_A_MONTH = 30.4
SECONDS_A_DAY = 86_400
# The ratio of the busiest second, in the morning, to the day's average. It is assumed to be the same for every load.
PEAK = 4.0

# Lambda bills the time spent waiting for AWS like computing time.
INGEST_WAIT_MS = 35.0  # one S3 PUT, then one PutRecords, within the region; assumed, not measured
ACCESS_LOG_BYTES = 350  # API Gateway's access log line per request
CPU_MB = 1769  # the memory with one vCPU (AWS Lambda Developer Guide: "Configure Lambda function memory")
CONSUMER_MB = 512
ITEM_DAYS = 90
OBJECT_OVERHEAD_GETS = 1.0  # Snowpipe reads each object once
ALL_METRICS, ALARM_METRICS, COMPOSITE_ALARMS = 27, 30, 1
KB, GB, TB = 1000, 1e9, 1e12

# The cost of dbt's warehouse is computed, because no Snowflake account was available. The scans per row were measured
# (`make bench ONLY=marts`), and the rest is assumed. An X-Small warehouse is billed a credit per hour, and at
# least a minute each time it resumes (Snowflake: "Overview of warehouses").
SCANS_OF_NEW_ROWS, SCANS_OF_TOUCHED_DAYS = 10.0, 2.3
TOUCHED_DAYS = 2  # today, and one day of late events
LEDGER_KEY_BYTES = 9  # key_head and event_date, compressed; read for every event in the ledger; assumed
LEDGER_ROW_BYTES = 49  # all columns, compressed; read only for the days with known events; assumed
KNOWN_DAYS = 4  # days that contain a run's repeated events; assumed
RUN_SECONDS = 75.0  # a few hundred statements; assumed
SCANNED_BYTES_A_SECOND = 250e6  # by an X-Small warehouse; assumed

type Way = Literal["rest", "http", "url", "firehose"]


@dataclass(frozen=True)
class Work:
    """CPU time, waiting time, bytes and billed units per request, batch and event, as measured by `make bench`."""

    ingest_cpu_ms_request: float
    ingest_cpu_ms_event: float
    puts_a_request: float
    gzip_share: float  # archived bytes divided by uncompressed bytes
    log_bytes_request: float  # the canonical log line with its metrics
    consume_cpu_ms_batch: float
    consume_cpu_ms_event: float
    consume_wait_ms_batch: float  # with a fake of AWS in which each call takes 5 ms
    consume_wait_ms_event: float
    write_units_event: float  # including indexes
    read_units_event: float
    notices_event: float
    stored_bytes_event: float
    log_bytes_batch: float

    @staticmethod
    def measured(path: Path = MEASURED) -> "Work":
        return Work(**yaml.safe_load(path.read_text())["ours"])


@dataclass(frozen=True)
class Load:
    """The events that a stage receives, and the settings that affect its cost."""

    events_per_day: int
    batch: int
    event_bytes: int = 500
    geofence_share: float = 0.2
    memory_mb: int = 1024
    provisioned: bool = False
    shards: int | None = None  # None: as many as the peak needs
    stream_retention_hours: int = 168
    archive_days: int = 400
    log_days: int = 90
    metrics: Literal["all", "alarms"] = "all"
    dashboard: bool = True
    tracing: bool = True
    check_loads: bool = True
    notifications: bool = True
    freshness_minutes: int = 60  # how often dbt runs
    work: Work = field(default_factory=Work.measured)

    @property
    def events(self) -> float:
        return self.events_per_day * DAYS_A_MONTH

    @property
    def requests(self) -> float:
        return self.events / self.batch

    @property
    def geofence_events(self) -> float:
        return self.events * self.geofence_share

    @property
    def gb(self) -> float:
        return self.events * self.event_bytes / GB

    @property
    def needed_shards(self) -> int:
        """Return the configured number of shards or, if none is configured, the number that the peak load needs.

        A shard accepts 1,000 records or 1 MB per second.
        """
        records = self.events_per_day * self.geofence_share / SECONDS_A_DAY * PEAK
        return self.shards or max(1, math.ceil(records / 1000), math.ceil(records * self.event_bytes / 1e6))


@dataclass(frozen=True)
class Line:
    """One row of the monthly bill."""

    component: str
    unit: str
    quantity: float
    price: float

    @property
    def usd(self) -> float:
        return self.quantity * self.price


class Prices:
    """The prices in prices.yml by name, such as `s3.put`. An unknown name raises KeyError.

    `as_of` is the earliest date on which one of the prices was read. `not_confirmed` lists the prices that no
    source confirms.
    """

    def __init__(self, path: Path = PRICES) -> None:
        self._found: Mapping[str, Any] = yaml.safe_load(path.read_text())
        services = {name: of for name, of in self._found.items() if isinstance(of, dict)}
        self.as_of: date = min(of["seen_on"] for of in services.values())
        self.not_confirmed = [
            f"{name}.{item}" for name, of in services.items() for item in of.get("not_confirmed", ())
        ]

    def __getitem__(self, name: str) -> float:
        service, _, item = name.partition(".")
        return float(self._found[service][item])


class _LineOf(Protocol):
    """A function that makes a line of the bill from a component, a unit, a quantity and the name of a price."""

    def __call__(self, component: str, unit: str, quantity: float, price: str, /) -> Line: ...


def bill(load: Load, prices: Prices, way: Way = "rest") -> Iterator[Line]:
    """Yield the lines of the monthly bill.

    Storage is billed at the size that it reaches by the end of the retention period.
    """

    def line(component: str, unit: str, quantity: float, price: str) -> Line:
        return Line(component, unit, quantity, prices[price])

    yield from _way_in(load, line, way)
    yield from _archive(load, line, way)
    yield from _stream(load, line)
    yield from _visits(load, line)
    yield from _warehouse(load, line)
    yield from _watching(load, line)


def _way_in(load: Load, line: _LineOf, way: Way) -> Iterator[Line]:
    if way in ("rest", "firehose"):
        yield line("API Gateway", "requests", load.requests, "api_gateway.rest_request")
    if way == "http":
        begun = max(1, math.ceil(load.batch * load.event_bytes / (512 * 1024)))
        yield line("API Gateway", "requests of 512 KB", load.requests * begun, "api_gateway.http_request")
    cpu_ms = load.work.ingest_cpu_ms_request + load.work.ingest_cpu_ms_event * load.batch
    ms = INGEST_WAIT_MS + cpu_ms * max(1, CPU_MB / load.memory_mb)
    yield line("ingest function", "requests", load.requests, "lambda.request")
    yield line(
        "ingest function",
        "GB-seconds",
        load.requests * ms / 1000 * load.memory_mb / 1024,
        "lambda.gb_second_arm64",
    )


def _archive(load: Load, line: _LineOf, way: Way) -> Iterator[Line]:
    objects = load.requests * load.work.puts_a_request
    if way == "firehose":
        rounded = math.ceil(load.event_bytes / (5 * KB)) * 5 * KB
        yield line(
            "Firehose",
            "GB, each record rounded up to a multiple of 5 KB",
            load.events * rounded / GB,
            "firehose.gb_in",
        )
        # Assume buffering hints of 128 MB and 300 s: Firehose closes an object when it reaches one of them.
        objects = max(load.gb * GB / 128e6, DAYS_A_MONTH * SECONDS_A_DAY / 300)
    yield line("S3", "PUT", objects, "s3.put")
    yield line("S3", "GET by Snowpipe", objects * OBJECT_OVERHEAD_GETS, "s3.get")
    yield line(
        "S3", "GB-months", load.gb * load.work.gzip_share * load.archive_days / DAYS_A_MONTH, "s3.gb_month"
    )
    yield line("SNS", "messages", objects, "sns.publish")


def _stream(load: Load, line: _LineOf) -> Iterator[Line]:
    hours = DAYS_A_MONTH * 24
    records = load.geofence_events
    if load.provisioned:
        shard_hours = load.needed_shards * hours
        units = math.ceil(load.event_bytes / (25 * KB))
        yield line("Kinesis", "shard hours", shard_hours, "kinesis.shard_hour")
        yield line("Kinesis", "PUT payload units", records * units, "kinesis.put_payload_unit")
        if load.stream_retention_hours > 24:
            yield line(
                "Kinesis",
                "shard hours with retention above 24 h",
                shard_hours,
                "kinesis.shard_retention_hour",
            )
        return
    gb_in = records * math.ceil(load.event_bytes / 1024) * 1024 / GB
    yield line("Kinesis", "stream hours", hours, "kinesis.on_demand_stream_hour")
    yield line("Kinesis", "GB in", gb_in, "kinesis.on_demand_gb_in")
    yield line("Kinesis", "GB out", records * load.event_bytes / GB, "kinesis.on_demand_gb_out")
    kept = records * load.event_bytes / GB * max(0, load.stream_retention_hours - 24) / hours
    yield line("Kinesis", "GB-months of retention above 24 h", kept, "kinesis.on_demand_retention_gb_month")


def _batches(load: Load) -> float:
    """Return the monthly number of consumer invocations.

    There is one per shard per second, but at least one per 200 records, and at most one per record.
    """
    seconds = DAYS_A_MONTH * SECONDS_A_DAY
    shards = load.needed_shards if load.provisioned else max(4, load.needed_shards)
    return max(load.geofence_events / 200, min(load.geofence_events, shards * seconds))


def lane_records_a_second(work: Work, memory_mb: int = CONSUMER_MB, batch: int = 200) -> float:
    """Return the number of records per second that the consumer processes per concurrent batch.

    The parallelization factor is the number of concurrent batches per shard.
    """
    cpu_ms = work.consume_cpu_ms_batch + work.consume_cpu_ms_event * batch
    wait_ms = work.consume_wait_ms_batch + work.consume_wait_ms_event * batch
    return batch / (wait_ms + cpu_ms * max(1, CPU_MB / memory_mb)) * 1000


def _visits(load: Load, line: _LineOf) -> Iterator[Line]:
    batches, events, work = _batches(load), load.geofence_events, load.work
    cpu_ms = batches * work.consume_cpu_ms_batch + events * work.consume_cpu_ms_event
    wait_ms = batches * work.consume_wait_ms_batch + events * work.consume_wait_ms_event
    ms = wait_ms + cpu_ms * CPU_MB / CONSUMER_MB
    yield line("consumer", "requests", batches, "lambda.request")
    yield line("consumer", "GB-seconds", ms / 1000 * CONSUMER_MB / 1024, "lambda.gb_second_arm64")
    yield line("DynamoDB", "write units", events * work.write_units_event, "dynamodb.write_unit")
    yield line("DynamoDB", "read units", events * work.read_units_event, "dynamodb.read_unit")
    gb = events / DAYS_A_MONTH * ITEM_DAYS * work.stored_bytes_event / GB
    yield line("DynamoDB", "GB-months", gb, "dynamodb.gb_month")
    yield line("DynamoDB", "GB-months of backup", gb, "dynamodb.backup_gb_month")
    notices = events * work.notices_event if load.notifications else 0
    yield line("EventBridge", "events", notices, "eventbridge.custom_event")


def _warehouse(load: Load, line: _LineOf) -> Iterator[Line]:
    credit = line("Snowpipe", "credits", load.gb, "snowflake.snowpipe_credits_gb")
    yield line("Snowpipe", "credits", credit.usd, "snowflake.credit")
    # It is assumed that Snowflake compresses a VARIANT about as well as gzip compresses the archived objects.
    tb = load.gb * load.work.gzip_share * load.archive_days / DAYS_A_MONTH * GB / TB
    yield line("Snowflake storage", "TB-months", tb, "snowflake.tb_month")


def _watching(load: Load, line: _LineOf) -> Iterator[Line]:
    work = load.work
    log_bytes_request = work.log_bytes_request
    alarms_only = load.metrics == "alarms"
    if alarms_only:
        omitted = [name for name in METRICS[logs.EVENTS_INGESTED] if name not in ALARMED]
        log_bytes_request -= sum(len(f'{{"Name":"{name}","Unit":"{unit_of(name)}"}},') for name in omitted)
    log_bytes = load.requests * (log_bytes_request + ACCESS_LOG_BYTES)
    gb = (log_bytes + _batches(load) * work.log_bytes_batch) / GB
    yield line("CloudWatch", "GB of logs", gb, "cloudwatch.log_gb")
    yield line(
        "CloudWatch", "GB-months of logs", gb * load.log_days / DAYS_A_MONTH, "cloudwatch.log_gb_month"
    )
    metrics = len(ALARMED) - (not load.check_loads) if alarms_only else ALL_METRICS
    yield line("CloudWatch", "metrics", metrics, "cloudwatch.metric_month")
    yield line("CloudWatch", "alarms", ALARM_METRICS, "cloudwatch.alarm_month")
    yield line("CloudWatch", "composite alarms", COMPOSITE_ALARMS, "cloudwatch.composite_alarm_month")
    if load.dashboard:
        yield line("CloudWatch", "dashboards", 1, "cloudwatch.dashboard_month")
    if load.check_loads:
        # An X-Small warehouse resumes every hour, which costs at least a minute each time.
        yield line("check", "credits", 24 * DAYS_A_MONTH / 60, "snowflake.credit")
    if load.tracing:
        # One request per second is traced, plus a twentieth of the rest.
        second = min(load.requests, DAYS_A_MONTH * SECONDS_A_DAY)
        yield line("X-Ray", "traces", second + 0.05 * (load.requests - second), "xray.trace")
    yield line("KMS", "keys", 1, "kms.key_month")
    yield line("KMS", "requests", 2 * 12 * 24 * DAYS_A_MONTH, "kms.rsa_2048_request")


def warehouse(load: Load, prices: Prices) -> list[Line]:
    """Return two lines of the bill for dbt's warehouse: the first for all work except the search in the ledger, the
    second for this search.

    The ledger contains the keys of all events (docs/adr/0097-narrow-look-at-the-ledger.md).
    """
    runs = DAYS_A_MONTH * 24 * 60 / load.freshness_minutes
    row_bytes = load.event_bytes * load.work.gzip_share
    new_rows = load.events_per_day * load.freshness_minutes / (24 * 60)
    rows = SCANS_OF_NEW_ROWS * new_rows + SCANS_OF_TOUCHED_DAYS * TOUCHED_DAYS * load.events_per_day
    ledger_bytes = load.events_per_day * load.archive_days * LEDGER_KEY_BYTES
    ledger_bytes += load.events_per_day * min(KNOWN_DAYS, load.archive_days) * LEDGER_ROW_BYTES
    seconds = max(60.0, RUN_SECONDS + rows * row_bytes / SCANNED_BYTES_A_SECOND)
    of_ledger = ledger_bytes / SCANNED_BYTES_A_SECOND
    credit = prices["snowflake.credit"]
    return [
        Line("dbt (computed)", "credits", runs * seconds / 3600, credit),
        Line("dbt (computed)", "credits for the ledger", runs * of_ledger / 3600, credit),
    ]


type Changes = Mapping[str, Any]
"""Fields of a load with their new values."""

# The settings of stage `small` in serverless/stage_settings.yml.
SMALL: Changes = {
    "provisioned": True,
    "stream_retention_hours": 24,
    "log_days": 30,
    "metrics": "alarms",
    "dashboard": False,
    "tracing": False,
    "check_loads": False,
    "freshness_minutes": 24 * 60,
}


def with_warehouse(load: Load, prices: Prices) -> float:
    return total(load, prices) + sum(line.usd for line in warehouse(load, prices))


def total(load: Load, prices: Prices, way: Way = "rest") -> float:
    return sum(line.usd for line in bill(load, prices, way))
