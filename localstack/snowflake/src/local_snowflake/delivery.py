"""Delivery as SQS promises it and seldom shows it: at least once, in any order.

A laptop's queue delivers once and in order nearly always; code that relied on it would break in production.
So messages are shuffled, some come later and some come twice, by a seed.
"""

import random
from collections.abc import Sequence

from local_snowflake.channel import Message


class Delivery:
    def __init__(self, seed: int, late_share: float = 0.1, twice_share: float = 0.05) -> None:
        self._random = random.Random(seed)  # not for secrets
        self._late_share = late_share
        self._twice_share = twice_share
        self._waiting: list[Message] = []

    def __call__(self, messages: Sequence[Message]) -> list[Message]:
        """What is delivered now, given what came in. Whoever is held back comes with the next call."""
        due, self._waiting = self._waiting, []
        for message in messages:
            late = self._random.random() < self._late_share
            (self._waiting if late else due).append(message)
            if self._random.random() < self._twice_share:
                self._waiting.append(message)
        self._random.shuffle(due)
        return due

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)


class InOrder(Delivery):
    """Each once, as the queue gave them."""

    def __init__(self) -> None:
        super().__init__(0, 0, 0)

    def __call__(self, messages: Sequence[Message]) -> list[Message]:
        return list(messages)
