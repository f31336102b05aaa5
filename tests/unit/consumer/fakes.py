"""In-memory fakes of the visits table, the bus and the quarantine."""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from aws.table import Failures, Item, Key, key_of
from consumer.consume import Poison
from consumer.notifications import Notification
from consumer.visits import Pair, Visit
from ops.visits_items import visits_in


class Inline(Executor):
    """An executor that runs each submitted call immediately, in the calling thread."""

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@dataclass
class FakeTable:
    """A fake table with only the guarantees of DynamoDB: atomic single-item writes and, on request, consistent reads.

    `before_access` is called before each read or write of an item. It may let another thread run, or raise an
    exception.
    """

    stored: dict[Key, Item] = field(default_factory=dict)
    before_access: Callable[[str], None] = lambda what: None
    requests: int = 0
    # Keys for which an eventually consistent read returns the item as it was before the last write
    stale: Callable[[Key], bool] = lambda key: False
    before: dict[Key, Item] = field(default_factory=dict)

    def seen_by(self, before_access: Callable[[str], None]) -> "FakeTable":
        """Return a table that shares the items of this one, but calls another `before_access`."""
        return FakeTable(self.stored, before_access, stale=self.stale, before=self.before)

    def get(self, wanted: Sequence[Key], *, consistent: bool = True) -> tuple[dict[Key, Item], Failures]:
        found = {}
        for key in wanted:
            self.before_access("get")
            item = self.stored.get(key)
            if not consistent and self.stale(key):
                item = self.before.get(key)
            if item is not None:
                found[key] = copy.deepcopy(item)
        self.requests += -(-len(wanted) // 100)
        return found, {}

    def put_version(self, item: Item, expected: int | None) -> bool:
        return self._put_if(item, lambda old: (old["version"] if old else None) == expected)

    def put_newer(self, item: Item) -> bool:
        return self._put_if(item, lambda old: old is None or int(old["version"]) < int(item["version"]))

    def _put_if(self, item: Item, holds: Callable[[Item | None], bool]) -> bool:
        self.before_access("put if")
        self.requests += 1
        if not holds(self.stored.get(key_of(item))):
            return False
        key = key_of(item)
        if key in self.stored:
            self.before[key] = self.stored[key]
        self.stored[key] = copy.deepcopy(item)
        return True

    def query(self, pk: str, first: str, last: str) -> Iterator[Item]:
        self.requests += 1
        after = ""
        while True:  # one item per page, so that others may write in between
            self.before_access("query")
            left = sorted(sk for p, sk in self.stored if p == pk and first <= sk <= last and sk > after)
            if not left:
                return
            after = left[0]
            yield copy.deepcopy(self.stored[pk, after])

    def visits(self, pair: Pair) -> list[Visit]:
        """Return a pair's visits in order of time, as readers of the table see them."""
        return [visit for found, visit in visits_in(self.stored.values()) if found == pair]


@dataclass
class FakeBus:
    notified: list[Notification] = field(default_factory=list)
    before_access: Callable[[str], None] = lambda what: None
    fails: Callable[[Notification], bool] = lambda notice: False

    def publish(self, notifications: Sequence[Notification]) -> dict[str, Exception]:
        failures: dict[str, Exception] = {}
        for notice in notifications:
            self.before_access("publish")
            if self.fails(notice):
                failures[notice.id] = ConnectionError("no bus")
            else:
                self.notified.append(notice)
        return failures


@dataclass
class FakeSetAside:
    kept: list[Poison] = field(default_factory=list)
    failure: Exception | None = None

    def keep(self, poison: Sequence[Poison]) -> str:
        if self.failure:
            raise self.failure
        self.kept += poison
        return "set-aside/one"
