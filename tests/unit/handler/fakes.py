"""Fakes of the handler's ports that record their input, and fail with the faults that a test sets."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto

from aws.errors import PermanentError, RetryableError
from contract.archive_object import LinesObject
from contract.stream_record import StreamRecord
from handler import main
from handler.circuit_breaker import CircuitBreaker
from handler.ingest import Ports
from handler.settings import Settings
from handler.signature import Secrets

# a fixed time, so that no event in the tests becomes too old
RECEIVED_AT = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Fault(Enum):
    """The faults that a test can set for a call to a port. NONE means that the call succeeds."""

    NONE = auto()
    BEFORE = auto()  # the call failed without an effect
    AFTER = auto()  # the call took effect, but the response was lost
    CRASH = auto()  # an unexpected exception
    PARTLY = auto()  # the stream accepts every second record
    MALFORMED = auto()  # the stream rejects every call that contains its malformed record


@dataclass
class World:
    """The state of the fake S3, Kinesis and SQS. Each call consumes the first of `faults`."""

    faults: list[Fault] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, str]] = field(default_factory=dict)
    stream: list[StreamRecord] = field(default_factory=list)
    claims: list[tuple[str, list[int]]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    now: float = 1_000_000.0
    received_at: datetime = RECEIVED_AT

    def __post_init__(self) -> None:
        self.circuit_breaker = CircuitBreaker(lambda: self.now)

    def ports(self) -> Ports:
        return Ports(ArchiveFake(self), _Stream(self), _Queue(self), self.circuit_breaker)

    def next_fault(self, call: str) -> Fault:
        self.calls.append(call)
        fault = self.faults.pop(0) if self.faults else Fault.NONE
        if fault is Fault.BEFORE:
            raise RetryableError("simulated failure")
        if fault is Fault.CRASH:
            raise RuntimeError("simulated failure")
        return fault

    def lines(self, prefix: str) -> list[bytes]:
        return [line for key in self.keys(prefix) for line in self.lines_of(key)]

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.objects if key.startswith(prefix + "/")]

    def lines_of(self, key: str) -> list[bytes]:
        return gzip.decompress(self.objects[key]).splitlines()

    def promised(self) -> set[bytes]:
        """Return the archived events that are on the stream, named in a claim check, or quarantined."""
        queued = {self.lines_of(key)[number - 1] for key, numbers in self.claims for number in numbers}
        aside = {self.set_aside_text(line) for line in self.lines("set-aside")}
        return {record.data for record in self.stream} | queued | aside

    def set_aside_text(self, line: bytes) -> bytes:
        origin = json.loads(line)["origin"]
        return self.lines_of(origin["object_key"])[int(origin["line"]) - 1]


@dataclass
class ArchiveFake:
    world: World
    bucket: str = "archive"

    def read(self, key: str) -> bytes:
        if self.world.next_fault("get") is Fault.AFTER:
            raise RetryableError("simulated failure")
        return self.world.objects[key]

    def store(self, lines: LinesObject, facts: Mapping[str, str]) -> bool:
        fault = self.world.next_fault("store")
        is_new = lines.key not in self.world.objects
        self.world.objects.setdefault(lines.key, lines.body)
        self.world.metadata.setdefault(lines.key, facts)
        if fault is Fault.AFTER:
            raise RetryableError("simulated failure after the call took effect")
        return is_new


@dataclass
class _Stream:
    world: World

    def put(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
        fault = self.world.next_fault("put")
        archived = set(self.world.lines("events"))
        assert all(record.data in archived for record in records), "a record was not archived first"
        if fault is Fault.MALFORMED:
            self.world.faults.insert(0, Fault.MALFORMED if len(records) > 1 else Fault.NONE)
            raise PermanentError("simulated failure")
        refused = list(records[::2]) if fault is Fault.PARTLY else []
        self.world.stream += [record for record in records if record not in refused]
        if fault is Fault.AFTER:
            raise RetryableError("simulated failure after the call took effect")
        return refused


@dataclass
class _Queue:
    world: World

    def enqueue(self, key: str, lines: Sequence[int]) -> None:
        fault = self.world.next_fault("enqueue")
        self.world.claims.append((key, list(lines)))
        if fault is Fault.AFTER:
            raise RetryableError("simulated failure after the call took effect")


@dataclass
class Context:
    """A Lambda context whose remaining time decreases by 5 ms per call."""

    aws_request_id: str = "fallback-id"
    remaining_ms: float = 28_000

    def get_remaining_time_in_millis(self) -> int:
        self.remaining_ms -= 5
        return int(self.remaining_ms)


def app(world: World, **settings: str) -> main.App:
    given = {"ARCHIVE_BUCKET": "archive", "STREAM_NAME": "stream", "REDRIVE_QUEUE_URL": "queue", **settings}
    secrets = Secrets(lambda: "first-secret second-secret")
    return main.App(Settings.of(given), world.ports(), secrets, lambda: world.received_at)
