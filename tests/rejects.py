"""Build lines of objects under `rejected/` for tests."""

from collections.abc import Sequence

from contract import rejected_lines
from contract.events import Reason
from contract.rejected_lines import Rejected


def reject_line(
    reasons: Sequence[Reason],
    event: bytes,
    *,
    index: int,
    event_id: str | None,
    app_version: str | None = None,
) -> bytes:
    """Return the line for a rejected event that is strict JSON."""
    rejected = Rejected(index, event_id, event, True, reasons)
    return rejected_lines.reject_line(rejected, content_type=None, app_version=app_version)


def unreadable_line(
    reasons: Sequence[Reason], body: bytes, *, content_type: str | None, content_encoding: str | None
) -> bytes:
    """Return the line for an unreadable body."""
    rejected = Rejected(0, None, body, False, reasons, content_encoding)
    return rejected_lines.reject_line(rejected, content_type=content_type, app_version=None)
