"""Test that the notification of a removed visit names the visit that replaces it, if there is one."""

from datetime import timedelta

import pytest

from consumer.notifications import news_of
from consumer.visit_diff import VisitDiff
from consumer.visits import Visit

from .strategies import START


def at(minutes: float):
    return START + timedelta(minutes=minutes)


def diff(before: list[Visit], after: list[Visit]) -> VisitDiff:
    old, new = ({(v.entered_at, v.entered_event_id): v for v in visits} for visits in (before, after))
    return VisitDiff(old, new, orphan_exits=0)


@pytest.mark.parametrize("exited", [None, at(10), at(30)], ids=["open", "as the removed one began", "later"])
def test_notification_of_a_removed_visit_names_the_visit_that_replaces_it(exited):
    gone = Visit(at(10), "gone", at(20), "exit")
    other = Visit(at(0), "other", exited, exited and "end")
    assert news_of(diff([gone, other], [other])) == [("visit_restated", other, gone)]


def test_visit_that_ended_before_a_removed_one_began_does_not_replace_it():
    gone = Visit(at(10), "gone", at(20), "exit")
    earlier, later = Visit(at(0), "earlier", at(5), "end"), Visit(at(15), "later")
    assert news_of(diff([earlier, gone, later], [earlier, later])) == [("visit_restated", None, gone)]
