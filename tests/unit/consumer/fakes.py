"""A table, a bus and a set-aside in memory, and a scheduler that decides who makes the next call."""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from aws.table import Failures, Item, Key, key_of
from consumer.consume import Poison
from consumer.keys import visit_of
from consumer.visit_diff import Notification
from consumer.visits import Visit


class Inline(Executor):
    """Runs what it is given at once, in order."""

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@dataclass
class FakeTable:
    """What DynamoDB promises and no more: single items are atomic, reads consistent, batches in no order.

    `turn` is called before every single read or write of an item; it may give way to others, or raise.
    """

    stored: dict[Key, Item] = field(default_factory=dict)
    turn: Callable[[str], None] = lambda what: None
    requests: int = 0

    def seen_by(self, turn: Callable[[str], None]) -> "FakeTable":
        """The same items, by somebody with other turns."""
        return FakeTable(self.stored, turn)

    def get(self, wanted: Sequence[Key]) -> tuple[dict[Key, Item], Failures]:
        found = {}
        for key in wanted:
            self.turn("get")
            if key in self.stored:
                found[key] = copy.deepcopy(self.stored[key])
        self.requests += -(-len(wanted) // 100)
        return found, {}

    def put_all(self, items: Sequence[Item]) -> Failures:
        assert len({key_of(i) for i in items}) == len(items), (
            "DynamoDB refuses a batch that names an item twice"
        )
        for item in items:
            self.turn("put")
            self.stored[key_of(item)] = copy.deepcopy(item)
        self.requests += -(-len(items) // 25)
        return {}

    def put_version(self, item: Item, expected: int | None) -> bool:
        return self._put_if(item, lambda old: (old["version"] if old else None) == expected)

    def put_newer(self, item: Item) -> bool:
        return self._put_if(item, lambda old: old is None or int(old["version"]) < int(item["version"]))

    def _put_if(self, item: Item, holds: Callable[[Item | None], bool]) -> bool:
        self.turn("put if")
        self.requests += 1
        if not holds(self.stored.get(key_of(item))):
            return False
        self.stored[key_of(item)] = copy.deepcopy(item)
        return True

    def query(self, pk: str, first: str, last: str, *, backwards: bool = False) -> Iterator[Item]:
        self.requests += 1
        after = None
        while True:  # one item a page: others may write between any two
            self.turn("query")
            keys = sorted(sk for p, sk in self.stored if p == pk and first <= sk <= last)
            left = [
                sk
                for sk in (reversed(keys) if backwards else keys)
                if after is None or (sk < after if backwards else sk > after)
            ]
            if not left:
                return
            after = left[0]
            yield copy.deepcopy(self.stored[pk, after])

    def visits(self, pk: str) -> list[Visit]:
        """What an index on the visits shows, in order."""
        found = [
            visit_of(item)
            for (p, sk), item in self.stored.items()
            if p == pk and (sk == "head" or sk.startswith("v#"))
        ]
        return sorted((v for v in found if v), key=lambda v: (v.entered_at, v.entered_event_id))


@dataclass
class FakeBus:
    told: list[Notification] = field(default_factory=list)
    turn: Callable[[str], None] = lambda what: None
    fails: Callable[[Notification], bool] = lambda notice: False

    def publish(self, told: Sequence[Notification]) -> dict[str, Exception]:
        failures: dict[str, Exception] = {}
        for notice in told:
            self.turn("publish")
            if self.fails(notice):
                failures[notice.id] = ConnectionError("no bus")
            else:
                self.told.append(notice)
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
