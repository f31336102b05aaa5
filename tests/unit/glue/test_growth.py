"""The fit of measured growth, on figures whose law is known."""

import pytest

from tests.spark.growth import fitted

SIZES = [1e5, 3e5, 1e6]


def test_a_line_gives_its_start_its_slope_and_power_one() -> None:
    fit = fitted(SIZES, [2 + 25e-6 * size for size in SIZES])
    assert (fit.start, fit.a_million, fit.power, fit.worst) == pytest.approx((2, 25, 1, 0), abs=1e-6)


def test_what_grows_faster_than_its_events_lies_off_the_line() -> None:
    assert fitted([*SIZES, 1e7], [1e-9 * size**1.5 for size in [*SIZES, 1e7]]).worst > 0.1


def test_two_sizes_prove_nothing() -> None:
    with pytest.raises(ValueError, match="three"):
        fitted([1e5, 1e6, 1e6], [1, 2, 3])
