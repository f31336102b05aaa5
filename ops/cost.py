"""`milkrun cost`: the monthly cost of a load by component, and what other settings and services would cost."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from contract import logs
from contract.metrics import ALARMED, METRICS, unit_of
from ops import terminal

PRICES = Path(__file__).with_name("prices.yml")
MEASURED = Path(__file__).with_name("measured.yml")

DAYS_A_MONTH = 30.4
SECONDS_A_DAY = 86_400
# Every fleet has the same morning peak: the ratio of the busiest second to the day's average.
PEAK = 4.0

# Lambda bills waiting for AWS like computing.
INGEST_WAIT_MS = 35.0  # one S3 PUT, then one PutRecords, within the region; assumed, not measured
ACCESS_LOG_BYTES = 350  # API Gateway's access log line per request
CPU_MB = 1769  # (AWS Lambda Developer Guide: "Configure Lambda function memory": one vCPU)
CONSUMER_MB = 512
ITEM_DAYS = 90
OBJECT_OVERHEAD_GETS = 1.0  # Snowpipe reads each object once
ALL_METRICS, ALARM_METRICS, COMPOSITE_ALARMS = 27, 30, 1
KB, GB, TB = 1000, 1e9, 1e12

# dbt's warehouse is computed, because no account was available: the scans per row are measured
# (`make bench ONLY=marts`), the rest is assumed. An X-Small warehouse costs a credit per hour and at least a minute
# each time it resumes (Snowflake: "Overview of warehouses").
SCANS_OF_NEW_ROWS, SCANS_OF_TOUCHED_DAYS = 10.0, 2.3
TOUCHED_DAYS = 2  # today, and one day of late events
LEDGER_KEY_BYTES = 9  # the start of a key, read of every event, compressed; assumed
LEDGER_ROW_BYTES = 49  # all columns, read on the days on which known events are; assumed
KNOWN_DAYS = 4  # on which a run's repeated events are; assumed
RUN_SECONDS = 75.0  # some hundred statements; assumed
SCANNED_BYTES_A_SECOND = 250e6  # by an X-Small warehouse; assumed

type Way = Literal["rest", "http", "url", "firehose"]
WAYS: Mapping[Way, str] = {
    "rest": "REST API (as deployed)",
    "http": "HTTP API instead: no API keys, no usage plans, no 429 by key",
    "url": "function URL instead: no gateway; we would implement keys and throttling",
    "firehose": "REST API, with Firehose instead of our S3 objects: receipt before the event is stored",
}


@dataclass(frozen=True)
class Work:
    """The cost of one unit of work, measured or counted. `make bench` writes it to measured.yml."""

    ingest_cpu_ms_request: float
    ingest_cpu_ms_event: float
    puts_a_request: float
    gzip_share: float  # archived bytes divided by uncompressed bytes
    log_bytes_request: float  # the canonical log line with its metrics
    consume_cpu_ms_batch: float
    consume_cpu_ms_event: float
    consume_wait_ms_batch: float  # at 5 ms per call
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
    """The incoming load and the stage's settings."""

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
        """Return the number of shards; one accepts 1,000 records or 1 MB per second."""
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
    """The prices of prices.yml; an unknown name raises an error.

    `as_of` is the oldest date at which a price was read. `not_confirmed` lists the prices without a source.
    """

    def __init__(self, path: Path = PRICES) -> None:
        self._found: dict[str, Any] = yaml.safe_load(path.read_text())
        services = {name: of for name, of in self._found.items() if isinstance(of, dict)}
        self.as_of: date = min(of["seen_on"] for of in services.values())
        self.not_confirmed = [
            f"{name}.{item}" for name, of in services.items() for item in of.get("not_confirmed", ())
        ]

    def __getitem__(self, name: str) -> float:
        service, _, item = name.partition(".")
        return float(self._found[service][item])


def bill(load: Load, prices: Prices, way: Way = "rest") -> Iterator[Line]:
    """Return every cost component of a stage under this load, with storage at its final size."""

    def line(component: str, unit: str, quantity: float, price: str) -> Line:
        return Line(component, unit, quantity, prices[price])

    yield from _way_in(load, line, way)
    yield from _archive(load, line, way)
    yield from _stream(load, line)
    yield from _visits(load, line)
    yield from _warehouse(load, line)
    yield from _watching(load, line)


def _way_in(load: Load, line: Any, way: Way) -> Iterator[Line]:
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


def _archive(load: Load, line: Any, way: Way) -> Iterator[Line]:
    objects = load.requests * load.work.puts_a_request
    if way == "firehose":
        rounded = math.ceil(load.event_bytes / (5 * KB)) * 5 * KB
        yield line("Firehose", "GB, 5 KB per record", load.events * rounded / GB, "firehose.gb_in")
        # Firehose closes an object at 128 MB or after five minutes.
        objects = max(load.gb * GB / 128e6, DAYS_A_MONTH * SECONDS_A_DAY / 300)
    yield line("S3", "PUT", objects, "s3.put")
    yield line("S3", "GET by Snowpipe", objects * OBJECT_OVERHEAD_GETS, "s3.get")
    yield line(
        "S3", "GB-months", load.gb * load.work.gzip_share * load.archive_days / DAYS_A_MONTH, "s3.gb_month"
    )
    yield line("SNS", "messages", objects, "sns.publish")


def _stream(load: Load, line: Any) -> Iterator[Line]:
    hours = DAYS_A_MONTH * 24
    records = load.geofence_events
    if load.provisioned:
        shard_hours = load.needed_shards * hours
        units = math.ceil(load.event_bytes / (25 * KB))
        yield line("Kinesis", "shard hours", shard_hours, "kinesis.shard_hour")
        yield line("Kinesis", "PUT payload units", records * units, "kinesis.put_payload_unit")
        if load.stream_retention_hours > 24:
            yield line("Kinesis", "shard hours, kept longer", shard_hours, "kinesis.shard_retention_hour")
        return
    gb_in = records * math.ceil(load.event_bytes / 1024) * 1024 / GB
    yield line("Kinesis", "stream hours", hours, "kinesis.on_demand_stream_hour")
    yield line("Kinesis", "GB in", gb_in, "kinesis.on_demand_gb_in")
    yield line("Kinesis", "GB out", records * load.event_bytes / GB, "kinesis.on_demand_gb_out")
    kept = records * load.event_bytes / GB * max(0, load.stream_retention_hours - 24) / hours
    yield line("Kinesis", "GB-months kept longer", kept, "kinesis.on_demand_retention_gb_month")


def _batches(load: Load) -> float:
    """Return the consumer's invocations. Per shard, the mapping waits for a second or for 200 records."""
    seconds = DAYS_A_MONTH * SECONDS_A_DAY
    shards = load.needed_shards if load.provisioned else max(4, load.needed_shards)
    return max(load.geofence_events / 200, min(load.geofence_events, shards * seconds))


def lane_records_a_second(work: Work, memory_mb: int = CONSUMER_MB, batch: int = 200) -> float:
    """Return the records per second that one lane of the consumer processes. A shard has as many lanes as its
    parallelization factor.
    """
    cpu_ms = work.consume_cpu_ms_batch + work.consume_cpu_ms_event * batch
    wait_ms = work.consume_wait_ms_batch + work.consume_wait_ms_event * batch
    return batch / (wait_ms + cpu_ms * max(1, CPU_MB / memory_mb)) * 1000


def _visits(load: Load, line: Any) -> Iterator[Line]:
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


def _warehouse(load: Load, line: Any) -> Iterator[Line]:
    credit = line("Snowpipe", "credits", load.gb, "snowflake.snowpipe_credits_gb")
    yield line("Snowpipe", "credits", credit.usd, "snowflake.credit")
    # Columns of a VARIANT compress about as well as gzip does.
    tb = load.gb * load.work.gzip_share * load.archive_days / DAYS_A_MONTH * GB / TB
    yield line("Snowflake storage", "TB-months", tb, "snowflake.tb_month")


def _watching(load: Load, line: Any) -> Iterator[Line]:
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
        # Every hour, an X-Small warehouse for the minute that is the least.
        yield line("check", "credits", 24 * DAYS_A_MONTH / 60, "snowflake.credit")
    if load.tracing:
        # One request a second is traced, and a twentieth of the rest.
        second = min(load.requests, DAYS_A_MONTH * SECONDS_A_DAY)
        yield line("X-Ray", "traces", second + 0.05 * (load.requests - second), "xray.trace")
    yield line("KMS", "keys", 1, "kms.key_month")
    yield line("KMS", "requests", 2 * 12 * 24 * DAYS_A_MONTH, "kms.rsa_2048_request")


def warehouse(load: Load, prices: Prices) -> list[Line]:
    """Return two costs of dbt's warehouse: all but the ledger, and looking each run's events up in the ledger."""
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


# Settings as serverless/params.yml names them, and what they change in the bill.
SMALL: Mapping[str, Any] = {
    "provisioned": True,
    "stream_retention_hours": 24,
    "log_days": 30,
    "metrics": "alarms",
    "dashboard": False,
    "tracing": False,
    "check_loads": False,
    "freshness_minutes": 24 * 60,
}
SIZES: Mapping[str, Load] = {
    "small": Load(1_000_000, 20, **SMALL),
    "medium": Load(1000 * SECONDS_A_DAY, 100, provisioned=True),
    "large": Load(100_000 * SECONDS_A_DAY, 100, provisioned=True),
}
SETTINGS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("streamMode: PROVISIONED", {"provisioned": True}),
    ("streamMode: ON_DEMAND", {"provisioned": False}),
    ("streamRetentionHours: 24", {"stream_retention_hours": 24}),
    ("metrics: alarms", {"metrics": "alarms"}),
    ("dashboard: false", {"dashboard": False}),
    ("tracing: false", {"tracing": False}),
    ("checkLoads: false", {"check_loads": False}),
    ("freshnessMinutes: 1440", {"freshness_minutes": 24 * 60}),
    ("notifications: none", {"notifications": False}),
    ("100 events per request", {"batch": 100}),
)


def with_warehouse(load: Load, prices: Prices) -> float:
    return total(load, prices) + sum(line.usd for line in warehouse(load, prices))


def recommended(load: Load, prices: Prices) -> list[dict[str, Any]]:
    """Return the settings that would each save at least 1 %, the largest saving first."""
    ours = with_warehouse(load, prices)
    rows = []
    for setting, changes in SETTINGS:
        if setting.startswith("100 ") and load.batch >= 100:
            continue
        saved = ours - with_warehouse(replace(load, **changes), prices)
        if saved >= ours / 100:
            rows.append(
                {"setting": setting, "saves_usd_a_month": round(saved, 2), "share": f"{saved / ours:.0%}"}
            )
    return sorted(rows, key=lambda row: -float(row["saves_usd_a_month"]))


def sizes(prices: Prices) -> list[dict[str, Any]]:
    """Return a row with the monthly cost for each of SIZES."""
    return [
        {
            "size": name,
            "events_a_day": load.events_per_day,
            "events_a_request": load.batch,
            "usd_a_month": round(total(load, prices), 2),
            "usd_a_million_events": round(total(load, prices) / load.events * 1e6, 4),
            "dbt_usd_a_month_computed": round(with_warehouse(load, prices) - total(load, prices), 2),
        }
        for name, load in SIZES.items()
    ]


def by_component(lines: Iterator[Line], load: Load) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for line in lines:
        if line.usd < 0.005 and line.component in {row["component"] for row in rows}:
            continue
        rows.append(
            {
                "component": line.component,
                "unit": line.unit,
                "quantity": round(line.quantity, 3),
                "price": line.price,
                "usd_a_month": round(line.usd, 2),
                "usd_a_million_events": round(line.usd / load.events * 1e6, 4),
            }
        )
    return rows


def total(load: Load, prices: Prices, way: Way = "rest") -> float:
    return sum(line.usd for line in bill(load, prices, way))


def compared(load: Load, prices: Prices) -> list[dict[str, object]]:
    ours = total(load, prices)
    rows = []
    for way, words in WAYS.items():
        usd = total(load, prices, way)
        rows.append(
            {
                "way": way,
                "what": words,
                "usd_a_month": round(usd, 2),
                "usd_a_million_events": round(usd / load.events * 1e6, 4),
                "against_ours": f"{(usd / ours - 1):+.0%}",
            }
        )
    for batch in sorted({1, 20, 100, 500} - {load.batch}):
        usd = total(replace(load, batch=batch), prices)
        rows.append(
            {
                "way": f"batch {batch}",
                "what": f"as deployed, with {batch} event{'s' * (batch > 1)} per request",
                "usd_a_month": round(usd, 2),
                "usd_a_million_events": round(usd / load.events * 1e6, 4),
                "against_ours": f"{(usd / ours - 1):+.0%}",
            }
        )
    return rows


def command(
    *,
    events_per_day: Annotated[int, typer.Option(min=1, help="Number of events per day.")] = 1_000_000,
    batch: Annotated[int, typer.Option(min=1, max=500, help="Number of events per request.")] = 20,
    event_bytes: Annotated[int, typer.Option(min=1, max=65536, help="Size of an event, in bytes.")] = 500,
    geofence_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of geofence events among all events.")
    ] = 0.2,
    memory: Annotated[
        int, typer.Option(min=128, max=10240, help="Memory of the ingest function, in MB.")
    ] = 1024,
    provisioned: Annotated[
        bool, typer.Option("--provisioned", help="Use provisioned shards instead of an on-demand stream.")
    ] = False,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Number of shards. Default: as many as the peak load needs.")
    ] = None,
    retention: Annotated[
        int, typer.Option(min=24, max=168, help="Retention period of the stream, in hours.")
    ] = 168,
    freshness: Annotated[
        int, typer.Option(min=1, max=1440, help="Time between two dbt runs, in minutes.")
    ] = 60,
    small: Annotated[
        bool, typer.Option("--small", help="Use the settings of the stage small in serverless/params.yml.")
    ] = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Estimate the monthly cost of a load at list prices, by component, and compare alternatives.

    The alternatives are Firehose, an HTTP API, a function URL and cheaper settings. The cost of dbt's warehouse
    is an estimate without measurements, so it is shown separately.
    """
    prices = Prices()
    load = Load(
        events_per_day=events_per_day,
        batch=batch,
        event_bytes=event_bytes,
        geofence_share=geofence_share,
        memory_mb=memory,
        provisioned=provisioned,
        stream_retention_hours=retention,
        freshness_minutes=freshness,
    )
    load = replace(load, shards=shards, **(SMALL if small else {}))
    rows, others = by_component(bill(load, prices), load), compared(load, prices)
    dbt = by_component(iter(warehouse(load, prices)), load)
    usd, of_dbt = total(load, prices), with_warehouse(load, prices) - total(load, prices)
    if as_json:
        terminal.print_json(
            {
                "prices_as_of": prices.as_of.isoformat(),
                "prices_not_confirmed": prices.not_confirmed,
                "events_per_day": events_per_day,
                "batch": batch,
                "components": rows,
                "usd_a_month": round(usd, 2),
                "usd_a_million_events": round(usd / load.events * 1e6, 4),
                "dbt_computed": dbt,
                "usd_a_month_with_dbt_computed": round(usd + of_dbt, 2),
                "compared": others,
                "recommended": recommended(load, prices),
                "sizes": sizes(prices),
            }
        )
        return
    terminal.show_rows(rows, as_json, title=f"{events_per_day:,} events per day, {batch} per request")
    terminal.out.print(f"\n${usd:,.2f} a month, ${usd / load.events * 1e6:.2f} per million events\n")
    terminal.show_rows(dbt, as_json, title=f"dbt's warehouse, a run every {load.freshness_minutes} minutes")
    terminal.out.print(f"\nComputed, not measured: ${of_dbt:,.2f} a month more\n")
    terminal.show_rows(others, as_json, title="Compared")
    terminal.show_rows(recommended(load, prices), as_json, title="Settings that save at least 1 %")
    terminal.show_rows(sizes(prices), as_json, title="Sizes, each with the settings that suit it")
    terminal.out.print(
        f"\nList prices of us-east-1 of {prices.as_of}, without free tiers (ops/prices.yml). Not "
        "included: queries on Snowflake's warehouses, data transfer, support."
    )
    if prices.not_confirmed:
        terminal.out.print(
            f"[yellow]Prices without a source; check before relying on them:[/] {', '.join(prices.not_confirmed)}"
        )
