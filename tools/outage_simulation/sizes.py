"""The settings of a stage at each fleet size, and the capacity of the stage's parts, computed from limits,
settings and measurements.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, cast

import yaml

PARAMS = Path(__file__).parents[2] / "serverless" / "stage_settings.yml"

# From docs/load.md: an invocation's waiting time (S3 25 ms, Kinesis 10 ms, DynamoDB 5 ms) plus its CPU time
# divided by its share of a vCPU (1,024 MB have 0.58, 512 MB 0.29).
REQUEST_SECONDS = 0.040  # ingest, 20 events
THROTTLED_REQUEST_SECONDS = 0.045  # ingest while Kinesis throttles (see handler/circuit_breaker.py)
SECONDS_WITHOUT_BREAKER = (
    3.6  # the same without a circuit breaker, because each request tries Kinesis until its timeout
)
CLAIM_SECONDS = 0.050  # redrive, one claim check (reads its object, puts its records)
BATCH_SECONDS = 0.26  # consume, 200 records (about one call each, sixteen at a time, and 0.04 s of CPU)

CONSUME_BATCH = 200  # serverless/functions.yml: the batchSize of consume
SHARD_RECORDS = 1000  # per second; Amazon Kinesis Data Streams Developer Guide: "Quotas and limits"
EVENT_BYTES = 500
SHARD_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """A fleet size, the stage's settings for it, and the resulting capacity of each part.

    The capacities `ingest`, `ingest_while_throttled`, `stream_write`, `consume`, `redrive` and `load` are in events
    per second; `throttle_rate` and `requests_per_second` are in requests per second.
    """

    name: str
    events_per_second: int
    batch: int  # events per request
    ingest_concurrency: int
    throttle_rate: int  # requests per second that the usage plan allows
    redrive_concurrency: int
    consume_concurrency: int
    shards: int
    parallelization: int = 1
    geofence_share: float = 0.2
    load_factor: float = 2.0  # assumed speed of Snowpipe relative to the arrivals; Snowflake documents none
    throttled_request_seconds: float = THROTTLED_REQUEST_SECONDS

    @property
    def geofence_per_second(self) -> float:
        return self.events_per_second * self.geofence_share

    @property
    def requests_per_second(self) -> float:
        return self.events_per_second / self.batch

    @property
    def ingest(self) -> float:
        return min(self.throttle_rate, self.ingest_concurrency / REQUEST_SECONDS) * self.batch

    @property
    def ingest_while_throttled(self) -> float:
        """Return the ingest rate while Kinesis throttles. Without a circuit breaker, each request then holds
        its concurrency slot until the Kinesis timeout.
        """
        return min(self.throttle_rate, self.ingest_concurrency / self.throttled_request_seconds) * self.batch

    @property
    def stream_write(self) -> float:
        return self.shards * min(SHARD_RECORDS, SHARD_BYTES / EVENT_BYTES)

    @property
    def consume(self) -> float:
        concurrent = min(self.shards * self.parallelization, self.consume_concurrency)
        return concurrent * CONSUME_BATCH / BATCH_SECONDS

    @property
    def redrive(self) -> float:
        return self.redrive_concurrency / CLAIM_SECONDS * self.batch * self.geofence_share

    @property
    def load(self) -> float:
        return self.events_per_second * self.load_factor

    @property
    def concurrency(self) -> float:
        """Return the average number of concurrent requests, by Little's law."""
        return self.requests_per_second * REQUEST_SECONDS

    @property
    def concurrency_while_throttled(self) -> float:
        return self.requests_per_second * self.throttled_request_seconds


class Production(TypedDict):
    """The parameters in serverless/stage_settings.yml on which a stage's capacity depends."""

    ingestConcurrency: int
    throttleRate: int
    redriveConcurrency: int
    consumeConcurrency: int
    parallelizationFactor: int


def production(path: Path = PARAMS) -> Production:
    """Return the parameters of the stage `prod` from serverless/stage_settings.yml."""
    params = yaml.safe_load(path.read_text())
    return cast("Production", params["default"] | params["prod"])


def sizes(path: Path = PARAMS) -> dict[str, Size]:
    """Return the sizes by name: 1k as deployed, and the larger sizes in docs/scale.md with and without the
    circuit breaker.
    """
    prod = production(path)
    small = Size(
        "1k",
        1_000,
        batch=20,
        ingest_concurrency=prod["ingestConcurrency"],
        throttle_rate=prod["throttleRate"],
        redrive_concurrency=prod["redriveConcurrency"],
        consume_concurrency=prod["consumeConcurrency"],
        shards=4,  # initial shards of an on-demand stream
        parallelization=prod["parallelizationFactor"],
    )
    middle = Size(
        "100k",
        100_000,
        batch=20,
        ingest_concurrency=1_000,
        throttle_rate=10_000,
        redrive_concurrency=200,
        consume_concurrency=80,
        shards=40,
        parallelization=2,
    )
    large = Size(
        "1M",
        1_000_000,
        batch=100,
        ingest_concurrency=2_000,
        throttle_rate=20_000,
        redrive_concurrency=400,
        consume_concurrency=800,
        shards=400,
        parallelization=2,
    )
    without_breaker = (
        replace(size, name=f"{size.name}-no-breaker", throttled_request_seconds=SECONDS_WITHOUT_BREAKER)
        for size in (middle, large)
    )
    return {size.name: size for size in (small, middle, large, *without_breaker)}
