"""A soak's blows follow from its seed; a story that breaks a promise is cut down to what breaks it."""

from collections.abc import Sequence

from tests.faults.soak import LOAD_S, MOST_BLOWS, Blow, blows_of, shrunk


def test_the_same_seed_gives_the_same_blows_and_another_gives_others() -> None:
    assert blows_of("7/1") == blows_of("7/1")
    assert blows_of("7/1") != blows_of("7/2")
    for n in range(200):
        blows = blows_of(f"1/{n}")
        assert 2 <= len(blows) <= MOST_BLOWS
        assert all(0 <= blow.at_s < LOAD_S for blow in blows)


def test_every_kind_of_blow_is_struck_sooner_or_later() -> None:
    blows = [blow for n in range(400) for blow in blows_of(f"1/{n}")]
    assert len({blow.what for blow in blows}) == 5
    assert len({(blow.service, blow.operation, blow.fault) for blow in blows}) > 35


def test_a_story_is_cut_down_to_the_blows_that_it_needs() -> None:
    blows = [Blow(float(n), 1.0) for n in range(9)]
    tried: list[Sequence[Blow]] = []

    def fails(some: Sequence[Blow]) -> bool:
        tried.append(some)
        return {2.0, 7.0} <= {blow.at_s for blow in some}

    assert shrunk(blows, fails, lambda: True) == [blows[2], blows[7]]
    assert len(tried) < 40


def test_a_story_that_breaks_by_itself_needs_no_blow() -> None:
    assert shrunk([Blow(1.0, 1.0), Blow(2.0, 1.0)], lambda some: True, lambda: True) == []


def test_without_time_the_story_stays_as_it_was() -> None:
    blows = [Blow(1.0, 1.0), Blow(2.0, 1.0)]
    assert shrunk(blows, lambda some: True, lambda: False) == blows
