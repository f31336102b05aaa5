"""Test the leak detector with simulated memory sizes and with the real handler, with and without artificial leaks."""

import random
from collections.abc import Mapping

import pytest

from tests.load.functions import FUNCTIONS, leak_of, simulated_aws
from tests.load.leaks import estimate

XS = [float(n * 20) for n in range(100)]
MIB = 2**20


def series(slope: float, noise: float = 64 * 1024, jumps: int = 0, seed: int = 1) -> list[float]:
    """Return simulated memory sizes of a process that fills its caches and grows by `slope` bytes per invocation,
    with noise and `jumps` sudden increases. Each size is rounded down to whole pages.
    """
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
def test_memory_growth_above_the_limit_is_reported_as_a_leak_but_noise_is_not(seed: int) -> None:
    assert estimate(XS, series(2000, seed=seed), 1000).found
    assert not estimate(XS, series(0, seed=seed), 1000).found
    assert not estimate(XS, series(300, seed=seed), 1000).found, (
        "growth below the limit was reported as a leak"
    )


@pytest.mark.parametrize("seed", range(5))
def test_growth_of_caches_and_a_single_sudden_increase_are_not_reported_as_leaks(seed: int) -> None:
    assert not estimate(XS, series(0, jumps=1, seed=seed), 1000).found


def test_leak_estimate_from_too_few_samples_raises_an_error() -> None:
    with pytest.raises(ValueError, match="too few"):
        estimate(XS[:9], series(0)[:9], 1)


class LeakyHandler:
    """A function with a typical leak: it adds each request to a cache that is never cleared."""

    def __init__(self) -> None:
        self.seen: dict[int, str] = {}

    def __call__(self, invocation: Mapping[str, object]) -> None:
        self.seen[len(self.seen)] = invocation["body"] + str(len(self.seen))


@pytest.mark.timeout(120)
def test_leak_in_the_real_handler_is_detected() -> None:
    """The handler runs in its own process. The artificial leak retains the body of each request, about 15 kB."""
    ingest = FUNCTIONS["ingest@20"]
    kept = [bytes(15_000) for _ in range(4000)]
    del kept[::2]  # the holes in this process's heap must not affect the measurement
    with simulated_aws("--scale", "0"):
        leaking = leak_of(ingest, 600, 0.04, leak=LeakyHandler())
        normal = leak_of(ingest, 600, 0.04)
    assert leaking.found
    assert 5_000 < leaking.slope < 25_000, "the estimated growth per request is wrong"
    assert not normal.found
