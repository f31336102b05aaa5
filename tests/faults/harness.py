"""Run one scenario: phones send events, one part fails and recovers, and then every promise must hold."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zlib import crc32

from ops.build_marts import build_marts
from tests.faults.checker import Breach, Facts, check, check_marts, settled
from tests.faults.fault_proxy import Rule
from tests.faults.faulty_stack import FaultyStack, wait_for
from tests.faults.phones import Exchange, Phones
from tools.fleet.phones import Post, posts
from tools.fleet.rounds import Planned
from tools.fleet.traffic_parameters import Plan

# Seconds without progress after which a promise counts as broken
NO_PROGRESS_S = 75.0
APPLIED_WITHIN_S = 150.0


@dataclass
class Result:
    """The result of a scenario, which becomes a row of the table in docs/reliability.md.

    `recovered_s` is the time from the end of the fault until no promise was broken, and `seconds` is the duration of
    the whole scenario. `run` is the scenario's unique id.
    """

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
class Scenario:
    faulty_stack: FaultyStack
    name: str
    seed: int = 1
    results: list[Result] = field(default_factory=list)
    _began_at: float = 0.0
    _repaired_at: float = 0.0

    def __post_init__(self) -> None:
        # A unique id, which this scenario's event ids begin with and its device ids end with
        self.run = f"{crc32(f'{self.name}/{self.seed}/{time.time_ns()}'.encode()):08x}"

    def morning(
        self, *, begins_at: datetime | None = None, trucks: int = 3, first_truck: int = 0
    ) -> list[Post]:
        """Return the requests that the trucks send in a morning (about 50 from three trucks). They contain duplicates,
        late bursts, conflicting versions of events, and invalid events.
        """
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
        self, make: Callable[[], Sequence[Post]] | None = None, **phone_options: object
    ) -> Iterator[Phones]:
        """Send requests (by default a morning's) while the `with` block runs. Then wait until no promise is broken,
        which means that all events of these requests, and no others, have arrived. Raises AssertionError with the
        broken promises if some promises stay broken.
        """
        sent = (make or self.morning)()
        self.faulty_stack.settle()
        self._began_at = time.monotonic()
        phones = self.faulty_stack.phones(**phone_options)
        try:
            phones.send(sent)
            wait_for(lambda: phones.settled >= min(6, len(sent)), APPLIED_WITHIN_S, "no request was settled")
            self._repaired_at = time.monotonic()
            yield phones
            exchanges = phones.exchanges()
        finally:
            phones.stop()
        self._await_all(exchanges)

    @contextmanager
    def broken(self, *rules: Rule) -> Iterator[None]:
        """Apply these fault rules inside the `with` block."""
        with self.faulty_stack.proxy.rules(*rules):
            yield
        self.repaired()

    def repaired(self) -> None:
        self._repaired_at = time.monotonic()

    def check_marts(self) -> None:
        """Build staging and marts once for all scenarios of the session, and add each scenario's breaches to
        its result.
        """
        assert build_marts(self.faulty_stack.environment), "dbt build failed"
        wrong: list[str] = []
        for result in self.results:
            facts = self.faulty_stack.mart_facts(result.run, result.exchanges)
            result.breaches = [*result.breaches, *check_marts(facts)]
            wrong += [f"{result.name}: {breach}" for breach in check_marts(facts)]
        assert not wrong, "\n".join(wrong[:20])

    def _await_all(self, exchanges: Sequence[Exchange]) -> None:
        breaches, recovered_at = converged(lambda: self.faulty_stack.facts(exchanges))
        exchanges = settled(exchanges, self.faulty_stack.facts(exchanges).objects)
        recovered_s = max(0.0, recovered_at - self._repaired_at)
        seconds = time.monotonic() - self._began_at
        result = Result(self.name, self.seed, self.run, exchanges, breaches, recovered_s, seconds)
        self.results.append(result)
        assert not breaches, "\n".join(map(str, breaches[:20]))


def contradicted(sent: Iterable[Post], every: int = 9) -> list[Post]:
    """Return the requests, and add a conflicting version of each `every`-th geofence event: the same id, another time.

    It is sent at the end of the same request, or of the request with the phone's next geofence event. In the second
    case, it is not sent if there is no such event.
    """
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


def rejected(sent: Iterable[Post], code: str) -> list[Post]:
    """Return the requests with `code` as the expected rejection of each valid event.

    Events that already have another expected rejection are removed, and so are requests without any other event.
    """
    with_code = [
        replace(
            post,
            events=tuple(replace(e, code=code, crossing=None) for e in post.events if e.code is None),
        )
        for post in sent
    ]
    return [post for post in with_code if post.events]


def _other_content(event: Planned, by: timedelta) -> Planned:
    assert event.crossing is not None
    at = event.crossing.occurred_at + by
    content = json.loads(event.text) | {
        "createdAt": at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    }
    crossing = replace(event.crossing, occurred_at=at)
    return replace(event, text=json.dumps(content, separators=(",", ":")), crossing=crossing)


def converged(facts: Callable[[], Facts], no_progress_s: float = NO_PROGRESS_S) -> tuple[list[Breach], float]:
    """Poll until no breach remains, or the number of breaches has not changed for `no_progress_s` seconds.

    Returns the remaining breaches and the time at which polling ended.
    """
    breaches = check(facts())
    seen, changed_at = len(breaches), time.monotonic()
    while breaches and time.monotonic() - changed_at < no_progress_s:
        time.sleep(0.5)
        breaches = check(facts())
        if len(breaches) != seen:
            seen, changed_at = len(breaches), time.monotonic()
    return breaches, time.monotonic()


def wait_until_applied(rule: Rule, times: int, within: float = APPLIED_WITHIN_S) -> None:
    """Wait until the rule has been applied to `times` calls. Raises AssertionError after `within` seconds."""
    try:
        wait_for(lambda: rule.applied >= times, within, "")
    except AssertionError:
        problem = f"the rule {rule} was applied only {rule.applied} of {times} times within {within:g} s"
        raise AssertionError(problem) from None
