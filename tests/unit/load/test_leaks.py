"""A detector that cannot fail proves nothing: made-up series, then the real handler with a leak put into it."""

import random
from typing import Any

import pytest

from tests.load.functions import FUNCTIONS, leak_of, simulated_aws
from tests.load.leaks import judged

XS = [float(n * 20) for n in range(100)]
MIB = 2**20


def series(slope: float, noise: float = 64 * 1024, jumps: int = 0, seed: int = 1) -> list[float]:
    """A process that fills its caches first, then grows by so many bytes an x, in pages and with noise."""
    pick = random.Random(seed)
    steps = sorted(pick.sample(range(40, 100), jumps))
    warm = [20 * MIB * min(1.0, n / 20) for n in range(100)]
    sizes = [
        90 * MIB
        + warm[n]
        + slope * XS[n]
        + pick.gauss(0, noise)
        + sum(MIB / 4 for each in steps if n >= each)
        for n in range(100)
    ]
    return [size // 4096 * 4096 for size in sizes]


@pytest.mark.parametrize("seed", range(20))
def test_what_grows_is_a_leak_and_what_only_flickers_is_none(seed: int) -> None:
    assert judged(XS, series(2000, seed=seed), 1000).found
    assert not judged(XS, series(0, seed=seed), 1000).found
    assert not judged(XS, series(300, seed=seed), 1000).found, "less than is allowed"


@pytest.mark.parametrize("seed", range(5))
def test_filling_caches_and_a_single_jump_are_none(seed: int) -> None:
    assert not judged(XS, series(0, jumps=1, seed=seed), 1000).found


def test_a_short_look_judges_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        judged(XS[:9], series(0)[:9], 1)


class Forgetful:
    """A leak as one writes it by mistake: a cache by request id, with nobody to empty it."""

    def __init__(self) -> None:
        self.seen: dict[int, str] = {}

    def __call__(self, invocation: Any) -> None:
        self.seen[len(self.seen)] = invocation["body"] + str(len(self.seen))


@pytest.mark.timeout(120)
def test_a_leak_put_into_the_handler_is_found_and_without_it_none_is() -> None:
    """The real handler in a process of its own; the leak keeps each request's body, 15 kB."""
    ingest = FUNCTIONS["ingest@20"]
    kept = [bytes(15_000) for _ in range(4000)]
    del kept[::2]  # holes in this process' heap, which the function's own must not see
    with simulated_aws("--scale", "0"):
        leaking = leak_of(ingest, 600, 0.04, spoil=Forgetful())
        sound = leak_of(ingest, 600, 0.04)
    assert leaking.found
    assert 5_000 < leaking.slope < 25_000, "what is left of the holes' pages takes some of it"
    assert not sound.found
