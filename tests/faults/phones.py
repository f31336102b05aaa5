"""Phones that follow the client's rule and record every request with all its responses.

The rule: on 2xx or 400, delete the batch; on 413, split it; on any other 4xx, keep it and send it again later;
on any other status, or without a response from Milkrun, send the identical bytes again. These phones delete a
batch on 413, because their batches are never too large. `tools.fleet.client` implements the whole rule, but does
not record every response.
"""

import gzip
import json
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import urllib3

from tools.fleet.client import Fate, fate_of
from tools.fleet.phones import Post

LONGEST_PAUSE_S = 5.0
# The read timeout is longer than an ingest request that waits for a failing stream, and shorter than API Gateway's
# timeout (29 s).
_TIMEOUT = urllib3.Timeout(connect=3, read=15)


@dataclass(frozen=True, slots=True)
class Try:
    """The response to one attempt.

    `status` is None if no response arrived; `answer` is None if the response was not a JSON object.
    """

    status: int | None
    answer: Mapping[str, object] | None = None
    content_type: str = ""
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request with all its responses in order, and what the phone did with the batch after the last one (`fate`).

    If `broke` is true, the phone and its batch were lost after a failure; `archived` then contains the
    indices of those events that are in S3 anyway.
    """

    post: Post
    tries: tuple[Try, ...]
    fate: Fate
    broke: bool = False
    archived: frozenset[int] | None = None

    @property
    def last(self) -> Try:
        return self.tries[-1]

    @property
    def failures(self) -> int:
        """Return the number of attempts that ended with a 5xx, a 429 or no response."""
        return sum(t.status is None or t.status >= 500 or t.status == 429 for t in self.tries)


class Phones:
    """Phones that send requests concurrently.

    Each request is repeated until its batch is deleted, or `timeout_s` seconds have passed. If `breaking` is true,
    a phone is lost after its first failure.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        *,
        at_once: int = 4,
        timeout_s: float = 120.0,
        breaking: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._breaking = breaking
        self._http = urllib3.PoolManager(maxsize=at_once, block=True, retries=False, timeout=_TIMEOUT)
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="phone")
        self._under_way: list[Future[Exchange]] = []
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.tried = 0
        self.settled = 0

    def send(self, posts: Iterable[Post]) -> None:
        """Start sending these requests. `settled` counts the requests that will not be repeated, and `tried`
        counts all attempts.
        """
        self._under_way += [self._pool.submit(self._deliver, post) for post in posts]

    @property
    def sent(self) -> int:
        return len(self._under_way)

    def exchanges(self) -> Sequence[Exchange]:
        """Wait until no request is still being repeated; return each request with its responses."""
        return [each.result() for each in self._under_way]

    def stop(self) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def _deliver(self, post: Post) -> Exchange:
        body = post.body()
        headers = {"x-api-key": self._api_key, "content-type": post.content_type}
        if post.gzipped:
            body, headers["content-encoding"] = gzip.compress(body, mtime=0), "gzip"
        tries: list[Try] = []
        give_up_at = time.monotonic() + self._timeout_s
        while True:
            tries.append(one := self._try(body, headers))
            fate = fate_of(one.status, one.answer)
            with self._lock:
                self.tried += 1
            longest = min(LONGEST_PAUSE_S, 0.2 * 2 ** len(tries))
            wanted = float(one.retry_after) if one.retry_after.isdecimal() else 0.0
            pause = max(min(wanted, LONGEST_PAUSE_S), random.uniform(longest / 2, longest))
            broke = fate == "kept" and self._breaking
            is_over = fate != "kept" or broke or time.monotonic() + pause > give_up_at
            if is_over or self._stopped.wait(pause):
                with self._lock:
                    self.settled += 1
                return Exchange(post, tuple(tries), fate, broke)

    def _try(self, body: bytes, headers: Mapping[str, str]) -> Try:
        try:
            response = self._http.request("POST", self._endpoint, body=body, headers=headers)
        except urllib3.exceptions.HTTPError:
            return Try(None)
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = None
        return Try(
            response.status,
            answer if isinstance(answer, dict) else None,
            response.headers.get("content-type", ""),
            response.headers.get("retry-after", ""),
        )
