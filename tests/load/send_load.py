"""Send each request when it is due, without waiting for earlier responses; at most SENDERS requests are concurrent.

A sender that waits for each response slows down with the server, so its percentiles omit the time that later
requests would have waited. Therefore a request's latency is measured from the time at which it is due.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.load.due_times import due_times
from tests.load.load_profile import Phase
from tools.fleet.client import Client, count_in
from tools.fleet.phones import Post

SENDERS = 32  # concurrent requests; further requests wait, and the wait counts as latency


@dataclass(frozen=True, slots=True)
class Sent:
    """A sent request. `due` is the time at which it was due, in seconds after the start of the load.

    `seconds` is its latency: from `due` until the client got a final response for all its events or gave up.
    """

    phase: str
    due: float
    seconds: float
    statuses: Sequence[int | None]
    delivered: bool
    events: int
    accepted: int


def sent(phases: Sequence[Phase], posts: Iterator[Post], client: Client, began: float) -> list[Sent]:
    """Send the requests of all phases and wait for the responses; return the requests in the order in which
    they were due. `began` is the time.monotonic() of the start.
    """
    found: list[Sent] = []
    lock = threading.Lock()

    def deliver(phase: str, due: float, post: Post) -> None:
        deliveries = client.deliver(post)
        one = Sent(
            phase,
            due,
            time.monotonic() - began - due,
            [status for each in deliveries for status in each.statuses],
            all(each.fate != "kept" for each in deliveries),
            len(post.events),
            sum(count_in(each.answer, "accepted") for each in deliveries),
        )
        with lock:
            found.append(one)

    with ThreadPoolExecutor(SENDERS, thread_name_prefix="phone") as phones:
        start = 0.0
        for phase in phases:
            for after in due_times(phase):
                due = start + after
                time.sleep(max(0.0, began + due - time.monotonic()))
                phones.submit(deliver, phase.name, due, next(posts))
            start += phase.seconds
            time.sleep(max(0.0, began + start - time.monotonic()))
    return sorted(found, key=lambda each: each.due)
