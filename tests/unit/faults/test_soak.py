"""Test that a soak's seed determines its faults, and that a failing chapter is reduced to the necessary
faults.
"""

from collections.abc import Sequence

from tests.faults.soak import LOAD_S, MAX_FAULTS, TimedFault, faults_of, shrunk


def test_seed_determines_the_faults() -> None:
    assert faults_of("7/1") == faults_of("7/1")
    assert faults_of("7/1") != faults_of("7/2")
    for n in range(200):
        faults = faults_of(f"1/{n}")
        assert 2 <= len(faults) <= MAX_FAULTS
        assert all(0 <= fault.at_s < LOAD_S for fault in faults)


def test_every_kind_of_fault_occurs() -> None:
    faults = [fault for n in range(400) for fault in faults_of(f"1/{n}")]
    assert len({fault.what for fault in faults}) == 5
    assert len({(fault.service, fault.operation, fault.fault) for fault in faults}) > 35


def test_failing_chapter_is_reduced_to_the_necessary_faults() -> None:
    faults = [TimedFault(float(n), 1.0) for n in range(9)]
    tried: list[Sequence[TimedFault]] = []

    def fails(some: Sequence[TimedFault]) -> bool:
        tried.append(some)
        return {2.0, 7.0} <= {fault.at_s for fault in some}

    assert shrunk(faults, fails, lambda: True) == [faults[2], faults[7]]
    assert len(tried) < 40


def test_chapter_that_fails_without_faults_is_reduced_to_none() -> None:
    assert shrunk([TimedFault(1.0, 1.0), TimedFault(2.0, 1.0)], lambda some: True, lambda: True) == []


def test_faults_are_not_reduced_when_no_time_remains() -> None:
    faults = [TimedFault(1.0, 1.0), TimedFault(2.0, 1.0)]
    assert shrunk(faults, lambda some: True, lambda: False) == faults
