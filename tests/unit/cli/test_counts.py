"""Test that numbers and nouns in messages agree."""

import pytest

from cli.counts import count


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "object", "0 objects"),
        (1, "object", "1 object"),
        (2, "claim check", "2 claim checks"),
        (1200, "event", "1,200 events"),
        (1, "batch", "1 batch"),
        (2, "batch", "2 batches"),
        (2, "box", "2 boxes"),
        (2, "class", "2 classes"),
        (2, "crash", "2 crashes"),
    ],
)
def test_noun_agrees_with_its_number(number: int, noun: str, expected: str) -> None:
    assert count(number, noun) == expected
