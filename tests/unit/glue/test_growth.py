"""Test the fit of measured growth with numbers that follow a known law."""

import pytest

from tests.spark.growth import fitted

SIZES = [1e5, 3e5, 1e6]


def test_linear_times_give_start_slope_and_exponent_one() -> None:
    fit = fitted(SIZES, [2 + 25e-6 * size for size in SIZES])
    assert (fit.start, fit.per_million, fit.exponent, fit.largest_error) == pytest.approx(
        (2, 25, 1, 0), abs=1e-6
    )


def test_superlinear_times_deviate_from_the_line() -> None:
    sizes = [*SIZES, 1e7]
    assert fitted(sizes, [1e-9 * size**1.5 for size in sizes]).largest_error > 0.1


def test_fewer_than_three_sizes_raise_an_error() -> None:
    with pytest.raises(ValueError, match="three"):
        fitted([1e5, 1e6, 1e6], [1, 2, 3])
