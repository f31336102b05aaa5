"""One scenario: load goes through, something breaks, it is mended, and in the end every promise holds."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zlib import crc32

from ops.marts import build_marts
from tests.faults.checker import Breach, Facts, check, check_marts, settled
from tests.faults.phones import Exchange, Phones
from tests.faults.proxy import Rule
from tests.faults.yard import Yard, wait_for
from tools.fleet.rounds import Plan, Planned, Post, posts

# A promise is broken if nothing has come nearer to it for so long.
PATIENCE_S = 75.0
MET_WITHIN_S = 150.0


@dataclass
class Result:
    """A line of the table in docs/reliability.md."""

    name: str
    seed: int
    run: str
    exchanges: Sequence[Exchange]
    breaches: Sequence[Breach]
    recovered_s: float
    seconds: float

    @property
    def events(self) -> int:
        return sum(len(x.post.events) for x in self.exchanges)

    @property
    def failures(self) -> int:
        return sum(x.failures for x in self.exchanges)

    def count(self, *kinds: str) -> int:
        return sum(b.kind in kinds for b in self.breaches)


@dataclass
class Story:
    yard: Yard
    name: str
    seed: int = 1
    results: list[Result] = field(default_factory=list)
    _began_at: float = 0.0
    _mended_at: float = 0.0

    def __post_init__(self) -> None:
        # Begins every event id and ends every device id of this story, and of no other.
        self.run = f"{crc32(f'{self.name}/{self.seed}/{time.time_ns()}'.encode()):08x}"

    def morning(
        self, *, begins_at: datetime | None = None, trucks: int = 3, first_truck: int = 0
    ) -> list[Post]:
        """Rounds with duplicates, late bursts, contradictions, and events that must be rejected: about 50 requests."""
        return contradicted(
            posts(
                Plan(
                    self.run,
                    begins_at or datetime.now(UTC) - timedelta(hours=8),
                    seed=self.seed,
                    trucks=trucks,
                    first_truck=first_truck,
                    farms=6,
                    rounds=1,
                    batch_size=8,
                    duplicates=0.1,
                    late=0.25,
                    invalid=0.03,
                )
            )
        )

    @contextmanager
    def under_load(
        self, make: Callable[[], Sequence[Post]] | None = None, **phones_that: object
    ) -> Iterator[Phones]:
        """Phones send a morning meanwhile. At the end all of it must have arrived, and nothing else."""
        sent = (make or self.morning)()
        self.yard.settle()
        self._began_at = time.monotonic()
        phones = self.yard.phones(**phones_that)
        try:
            phones.send(sent)
            wait_for(lambda: phones.settled >= min(6, len(sent)), MET_WITHIN_S, "no request was settled")
            self._mended_at = time.monotonic()
            yield phones
            exchanges = phones.exchanges()
        finally:
            phones.stop()
        self._await_all(exchanges)

    @contextmanager
    def broken(self, *rules: Rule) -> Iterator[None]:
        """Inside, these rules hold."""
        with self.yard.proxy.rules(*rules):
            yield
        self.mended()

    def mended(self) -> None:
        self._mended_at = time.monotonic()

    def check_marts(self) -> None:
        """Staging and marts, built once for all stories of the session; what is wrong counts for each."""
        assert build_marts(self.yard.environment), "dbt build failed"
        wrong: list[str] = []
        for result in self.results:
            facts = self.yard.mart_facts(result.run, result.exchanges)
            result.breaches = [*result.breaches, *check_marts(facts)]
            wrong += [f"{result.name}: {breach}" for breach in check_marts(facts)]
        assert not wrong, "\n".join(wrong[:20])

    def _await_all(self, exchanges: Sequence[Exchange]) -> None:
        breaches, recovered_at = converged(lambda: self.yard.facts(exchanges))
        exchanges = settled(exchanges, self.yard.facts(exchanges).objects)
        recovered_s = max(0.0, recovered_at - self._mended_at)
        seconds = time.monotonic() - self._began_at
        result = Result(self.name, self.seed, self.run, exchanges, breaches, recovered_s, seconds)
        self.results.append(result)
        assert not breaches, "\n".join(map(str, breaches[:20]))


def contradicted(sent: Iterable[Post], every: int = 9) -> list[Post]:
    """With other contents of some geofence events: in the same request, or in one that the phone sends later."""
    found: list[Post] = []
    later: dict[str, Planned] = {}
    crossings = 0
    for post in sent:
        more: list[Planned] = []
        for event in post.events:
            if event.crossing is None:
                continue
            crossings += 1
            if crossings % every == 0:
                by = timedelta(seconds=40 if crossings % 2 else -40)
                if crossings % (3 * every) == 0:
                    more.append(_other_content(event, by))
                else:
                    later[event.crossing.device_id] = _other_content(event, by)
            elif waiting := later.pop(event.crossing.device_id, None):
                more.append(waiting)
        found.append(replace(post, events=(*post.events, *more)))
    return found


def _other_content(event: Planned, by: timedelta) -> Planned:
    assert event.crossing is not None
    at = event.crossing.occurred_at + by
    content = json.loads(event.text) | {
        "createdAt": at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    }
    crossing = replace(event.crossing, occurred_at=at)
    return replace(event, text=json.dumps(content, separators=(",", ":")), crossing=crossing)


def converged(facts: Callable[[], Facts], patience_s: float = PATIENCE_S) -> tuple[list[Breach], float]:
    """What is still broken once nothing changes any more, and when all was well (or given up)."""
    breaches = check(facts())
    seen, changed_at = len(breaches), time.monotonic()
    while breaches and time.monotonic() - changed_at < patience_s:
        time.sleep(0.5)
        breaches = check(facts())
        if len(breaches) != seen:
            seen, changed_at = len(breaches), time.monotonic()
    return breaches, time.monotonic()


def met(rule: Rule, times: int, within: float = MET_WITHIN_S) -> None:
    """Wait until something was done to so many calls."""
    try:
        wait_for(lambda: rule.met >= times, within, f"{rule}: not met {times} times")
    except AssertionError as error:
        raise AssertionError(f"{error}, only {rule.met}") from None
