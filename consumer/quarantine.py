"""Quarantine records that can never be processed: store them in S3 under `set-aside/`."""

from collections.abc import Sequence
from dataclasses import dataclass

from aws.archive import Archive
from consumer.consume import Poison
from contract.archive_object import lines_object
from contract.rejected_lines import quarantine_line


@dataclass(frozen=True, slots=True)
class S3SetAside:
    """Stores the records of each call in one object under `set-aside/`, whose key contains the hash of its content."""

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
