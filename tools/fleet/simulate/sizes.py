"""How a stage is set at each size, and what its parts then can do: limits, settings, and what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

PARAMS = Path(__file__).parents[3] / "serverless" / "params.yml"

# By docs/load.md: what an invocation waits for (S3 25 ms, Kinesis 10 ms, DynamoDB 5 ms) and its CPU over its share of
# a vCPU (1,024 MB are 0.58, 512 MB 0.29).
REQUEST_SECONDS = 0.040  # ingest, 20 events
REFUSED_REQUEST_SECONDS = 0.045  # ingest, while Kinesis refuses: handler.publish.CircuitBreaker
PATIENT_REQUEST_SECONDS = 3.6  # the same if each request tried Kinesis for as long as it has patience
CLAIM_SECONDS = 0.050  # redrive, one claim check: its object read, its records put
BATCH_SECONDS = 0.26  # consume, 200 records: about one call a record, sixteen at a time, 0.04 s of CPU

CONSUME_BATCH = 200  # serverless/params.yml: consumeBatchSize
SHARD_RECORDS = 1000  # a second; Kinesis: "Quotas and limits"
EVENT_BYTES = 500
SHARD_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """One size of fleet, and the settings of its stage. Rates are events a second."""

    name: str
    events_per_second: int
    batch: int  # events a request
    ingest_concurrency: int
    throttle_rate: int  # requests a second that the usage plan lets in
    redrive_concurrency: int
    consume_concurrency: int
    shards: int
    parallelization: int = 1
    geofence_share: float = 0.2
    load_factor: float = 2.0  # Snowpipe's speed over what arrives: Snowflake names none; assumed
    refused_request_seconds: float = REFUSED_REQUEST_SECONDS

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
    def ingest_while_refused(self) -> float:
        """A request that waits for Kinesis in vain holds its place for seconds."""
        return min(self.throttle_rate, self.ingest_concurrency / self.refused_request_seconds) * self.batch

    @property
    def stream_write(self) -> float:
        return self.shards * min(SHARD_RECORDS, SHARD_BYTES / EVENT_BYTES)

    @property
    def consume(self) -> float:
        at_once = min(self.shards * self.parallelization, self.consume_concurrency)
        return at_once * CONSUME_BATCH / BATCH_SECONDS

    @property
    def redrive(self) -> float:
        return self.redrive_concurrency / CLAIM_SECONDS * self.batch * self.geofence_share

    @property
    def load(self) -> float:
        return self.events_per_second * self.load_factor

    @property
    def concurrency(self) -> float:
        """Requests under way at any time, by Little's law."""
        return self.requests_per_second * REQUEST_SECONDS

    @property
    def concurrency_while_refused(self) -> float:
        return self.requests_per_second * self.refused_request_seconds


def production(path: Path = PARAMS) -> Mapping[str, Any]:
    """What stage prod is deployed with."""
    params = yaml.safe_load(path.read_text())
    return {**params["default"], **params["prod"]}


def sizes(path: Path = PARAMS) -> dict[str, Size]:
    """1k as deployed today; the larger ones as docs/scale.md says that they must be set; and those two as today,
    with a handler that would try Kinesis for seconds at each request."""
    prod = production(path)
    small = Size(
        "1k",
        1_000,
        batch=20,
        ingest_concurrency=prod["ingestConcurrency"],
        throttle_rate=prod["throttleRate"],
        redrive_concurrency=prod["redriveConcurrency"],
        consume_concurrency=prod["consumeConcurrency"],
        shards=4,  # with which an on-demand stream begins
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
    patient = (
        replace(size, name=f"{size.name}, patient", refused_request_seconds=PATIENT_REQUEST_SECONDS)
        for size in (middle, large)
    )
    return {size.name: size for size in (small, middle, large, *patient)}
