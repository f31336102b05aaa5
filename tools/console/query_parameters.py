"""Parse the query parameters of a request. An invalid parameter raises a Problem with status 400."""

from datetime import UTC, datetime

from starlette.requests import Request

from consumer import keys
from contract.events import Fence
from tools.console.responses import Problem


def number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None or not text:
        return default
    if not is_number(text) or int(text) > most:
        raise Problem(400, f"`{name}` must be an integer from 0 to {most}.")
    return int(text)


def is_number(text: str) -> bool:
    """Return whether the text consists of 1 to 20 decimal digits."""
    return text.isascii() and text.isdigit() and len(text) <= 20


def time_of(request: Request, name: str, default: datetime | None = None) -> datetime:
    text = request.query_params.get(name)
    if not text:
        if default is None:
            raise Problem(400, f"Specify `{name}`.")
        return default
    try:
        at = datetime.fromisoformat(text)
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
        if not 1 < at.year < 9999:  # datetime may not support its year in another time zone
            raise ValueError
        return at
    except (ValueError, OverflowError):
        raise Problem(400, f"`{name}` must be an ISO 8601 time in a year from 2 to 9998.") from None


def fence_of(fence_id: str | None) -> Fence | None:
    if not fence_id:
        return None
    tag, sharp, external_id = fence_id.partition("#")
    if not sharp:
        raise Problem(400, "`fence_id` must have the form tag#externalId.")
    return Fence(keys.unquoted(tag), keys.unquoted(external_id))
