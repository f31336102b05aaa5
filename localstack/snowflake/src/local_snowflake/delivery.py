"""Deliver messages as unreliably as SQS permits: at least once, in any order, and possibly late.

A local queue nearly always delivers each message immediately, once and in order. Code that relies on that
would fail in production, so messages are delayed, repeated and shuffled at random; a seed makes this
reproducible. A latency can be added, because Snowpipe typically loads a file after about a minute (Snowflake:
"Introduction to Snowpipe").
"""

import random
import time
from collections.abc import Callable, Sequence

from local_snowflake.channel import Message
from local_snowflake.seconds_range import AT_ONCE, Latency


class Delivery:
    def __init__(
        self,
        seed: int,
        late_share: float = 0.1,
        twice_share: float = 0.05,
        latency: Latency = AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._random = random.Random(seed)  # not used for security
        self._late_share = late_share
        self._twice_share = twice_share
        self._latency = latency
        self._clock = clock
        self._waiting: list[Message] = []
        self._under_way: list[tuple[float, Message]] = []

    def __call__(self, messages: Sequence[Message]) -> list[Message]:
        """Add received messages, and return all messages that are due now, including delayed and repeated
        ones from earlier calls.
        """
        due, self._waiting = self._waiting, []
        for message in self._arrived(messages):
            late = self._random.random() < self._late_share
            (self._waiting if late else due).append(message)
            if self._random.random() < self._twice_share:
                self._waiting.append(message)
        self._shuffle(due)
        return due

    def _arrived(self, messages: Sequence[Message]) -> list[Message]:
        if not self._latency.high:
            return list(messages)
        now = self._clock()
        self._under_way += [(now + self._random.uniform(*self._latency), message) for message in messages]
        arrived = sorted((each for each in self._under_way if each[0] <= now), key=lambda each: each[0])
        self._under_way = [each for each in self._under_way if each[0] > now]
        return [message for _, message in arrived]

    def _shuffle(self, messages: list[Message]) -> None:
        self._random.shuffle(messages)

    @property
    def waiting(self) -> bool:
        return bool(self._waiting or self._under_way)


class InOrder(Delivery):
    """Delivers each message once, in the order received or, with a latency, in the order in which the messages
    become due.
    """

    def __init__(self, latency: Latency = AT_ONCE) -> None:
        super().__init__(0, 0, 0, latency)

    def _shuffle(self, messages: list[Message]) -> None:
        del messages
