"""The receipt: the body of a response to a request whose events were handled."""

from dataclasses import dataclass

import msgspec

from contract.events import Reason
from handler.validate import Batch

MAX_ERROR_BYTES = 60 * 1024  # of the errors in a response, which has at most 64 KiB as a whole
_CONFLICT = Reason(
    "event_id_conflict", "_id", "Accepted, but the batch contains different content with the same `_id`."
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The body of a 202 response. The 400 response for a request without a valid event contains it, too."""

    request_id: str
    received: int
    accepted: int
    duplicates: int
    rejected: int
    object_key: str | None
    rejected_key: str | None
    errors: list[dict[str, object]]
    errors_omitted: int = 0


def errors_of(batch: Batch) -> tuple[list[dict[str, object]], int]:
    """Return the errors (reasons and conflicts) that fit into MAX_ERROR_BYTES, and the number of omitted errors."""
    found = [(event.index, event.event_id, reason) for event in batch.rejected for reason in event.reasons]
    found += [(index, event_id, _CONFLICT) for index, event_id in batch.conflicts]
    errors: list[dict[str, object]] = []
    left = MAX_ERROR_BYTES
    for index, event_id, reason in found:
        error = {"index": index, "event_id": event_id, **msgspec.structs.asdict(reason)}
        left -= len(msgspec.json.encode(error)) + 1
        if left < 0:
            break
        errors.append(error)
    return errors, len(found) - len(errors)
