"""The keys of the visits table: one partition per device, and one sort-key prefix per (device, fence) pair.

`#` separates the parts of a key. Ids may contain any character, so `#` and `%` inside a part are percent-encoded;
otherwise two different pairs could have the same key.

    pk  <device>
    sk  <tag>#<externalId>#head                 the pair's log: its latest events (consumer/item_layout.py)
        <tag>#<externalId>#e#<version>#<n>      a chunk of earlier events
"""

from datetime import datetime, timedelta
from functools import lru_cache

from consumer.visits import Pair
from contract.events import Fence

LAST = "\U0010ffff"  # sorts after every key
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")
_MICROSECOND = timedelta(microseconds=1)


def quoted(part: str) -> str:
    return part.replace("%", "%25").replace("#", "%23")


def unquoted(part: str) -> str:
    return part.replace("%23", "#").replace("%25", "%")


def pair_key(pair: Pair) -> str:
    return f"{quoted(pair.device_id)}#{fence_key(pair.fence)}"


@lru_cache(4096)  # called several times per event
def fence_key(fence: Fence) -> str:
    return f"{quoted(fence.tag)}#{quoted(fence.external_id)}"


def log_key(pair: Pair) -> tuple[str, str]:
    return quoted(pair.device_id), f"{fence_key(pair.fence)}#head"


def chunk_key(pair: Pair, version: int, number: int) -> str:
    """Return the sort key of a chunk. `number` distinguishes the chunks of one change."""
    return f"{fence_key(pair.fence)}#e#{version}#{number}"


def pair_range(pair: Pair, part: str = "") -> tuple[str, str, str]:
    """Return the partition key and the sort-key range of a pair's items, or only of its chunks if `part` is `#e`."""
    prefix = fence_key(pair.fence) + part
    return quoted(pair.device_id), f"{prefix}#", f"{prefix}$"


def pair_of_key(pk: str, sk: str) -> Pair:
    """Return an item's pair. In this and the previous layout, `pk#sk` begins with device, tag and external id."""
    device_id, tag, external_id, *_ = map(unquoted, f"{pk}#{sk}".split("#"))
    return Pair(device_id, Fence(tag, external_id))


@lru_cache(4096)  # called several times per event
def timestamp(at: datetime) -> str:
    """Format a time in UTC with a fixed width, so that the strings sort chronologically."""
    return at.isoformat(timespec="microseconds")[:26] + "Z"


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def of_microseconds(number: int) -> datetime:
    return _EPOCH + timedelta(microseconds=number)


def first_version(at: datetime) -> int:
    """Return a new log's first version: `at` in epoch milliseconds, so it exceeds every version of an expired log."""
    return int(at.timestamp() * 1000)


def instant_of(version: int) -> datetime:
    """Return the approximate time of a log's first events; its version numbers count up from that time."""
    return _EPOCH + timedelta(milliseconds=version)
