"""Send events to the endpoint as a phone does, and report the result of each request.

The rule for clients (README, "Send events"): after 2xx, delete the batch; after 400, delete the batch and report
it as dropped; after 413, split the batch in two and send both halves, or delete the event and report it as dropped if
it is the only one in the batch; after any other 4xx, keep the batch and send it again with increasing delays; after
anything else or no response, send the identical bytes again. A 2xx or 400 without a receipt is not from Milkrun and
counts as no response.
"""

import gzip
import json
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import urllib3

from ops.post_to_endpoint import lacks_receipt
from ops.stage_outputs import Outputs
from tools.fleet.phones import Post
from tools.fleet.rounds import Planned
from tools.stack.identity import NO_DEVICE, Tokens

type Fate = Literal["delivered", "dropped", "kept"]
type Json = dict[str, object]

# API Gateway responds with 504 if the function has not answered after 29 seconds, so wait a little longer than that.
_TIMEOUT = urllib3.Timeout(connect=3, read=32)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The result of a request: its events were delivered, dropped, or still kept on the phone at the timeout.

    `status` is None if there was no response. `posted_at` and `seconds` refer to the last attempt. `answer`
    is {} if the response body was not a JSON object.
    """

    post: Post
    fate: Fate
    status: int | None
    answer: Json
    posted_at: datetime
    seconds: float
    statuses: tuple[int | None, ...]


class Client:
    """An HTTP client that follows the rule for clients. It retries a request for `timeout_s` seconds and then
    leaves the request undelivered.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        *,
        timeout_s: float = 120.0,
        first_pause: float = 0.2,
        connections: int = 8,
        token_of: Callable[[str, bool], str] | None = None,
    ) -> None:
        """`token_of(device, is_refused)` returns a token for the device, and a new token if the previous one
        was refused. If `token_of` is None, requests contain only the API key.
        """
        self._endpoint = endpoint
        self._headers = {"x-api-key": api_key, "user-agent": "milkrun-ops-send"}
        self._token_of = token_of
        self._timeout_s = timeout_s
        self._first_pause = first_pause
        self._stopped = threading.Event()
        # Retries follow the rule for clients, not the library's rules.
        self._http = urllib3.PoolManager(maxsize=connections, block=True, retries=False, timeout=_TIMEOUT)

    @classmethod
    def of(cls, outputs: Outputs, *, timeout_s: float = 120.0, connections: int = 8) -> "Client":
        """Return a client for a stage. The client sends tokens if the stage is a local one that requires them."""
        token_of = Tokens(outputs.token_issuer) if outputs.token_issuer else None
        return cls(
            outputs.endpoint, outputs.api_key, timeout_s=timeout_s, connections=connections, token_of=token_of
        )

    def stop(self) -> None:
        """End all pauses between attempts at once, and stop retrying. Undelivered requests remain undelivered."""
        self._stopped.set()

    def wait(self, seconds: float) -> bool:
        """Wait until `seconds` have passed or the client is stopped; return whether the client was stopped."""
        return self._stopped.wait(seconds)

    def deliver(self, post: Post) -> list[Delivery]:
        """Send a request. Return one delivery, or one per part if the request was split: by device if tokens
        are used, or in two after a 413.
        """
        parts = by_device(post) if self._token_of else [("", post)]
        return [delivery for device, part in parts for delivery in self._deliver(part, device)]

    def _deliver(self, post: Post, device: str) -> list[Delivery]:
        delivery = self._try_until_settled(post, device)
        if delivery.status != 413 or len(post.events) == 1:
            return [delivery]
        middle = len(post.events) // 2
        halves = (replace(post, events=post.events[:middle]), replace(post, events=post.events[middle:]))
        return [part for half in halves for part in self._deliver(half, device)]

    def _try_until_settled(self, post: Post, device: str) -> Delivery:
        body = post.body()
        headers = self._headers | {"content-type": post.content_type}
        if post.gzipped:
            body, headers["content-encoding"] = gzip.compress(body, mtime=0), "gzip"
        statuses: list[int | None] = []
        give_up_at = time.monotonic() + self._timeout_s
        while True:
            if self._token_of:
                is_refused = statuses[-1:] == [401]
                headers["authorization"] = f"Bearer {self._token_of(device, is_refused)}"
            posted_at, began = datetime.now(UTC), time.perf_counter()
            status, answer, wanted_pause = self._post(body, headers)
            seconds = time.perf_counter() - began
            statuses.append(status)
            fate = fate_of(status, answer)
            # Jitter keeps phones from retrying at the same time. The pause is at least the server's Retry-After.
            longest = min(10.0, self._first_pause * 2 ** len(statuses))
            pause = max(wanted_pause, random.uniform(longest / 2, longest))
            patient = fate == "kept" and time.monotonic() + pause < give_up_at
            if not patient or self._stopped.wait(pause):
                return Delivery(post, fate, status, answer, posted_at, seconds, tuple(statuses))

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int | None, Json, float]:
        try:
            response = self._http.request("POST", self._endpoint, body=body, headers=headers)
        except urllib3.exceptions.HTTPError:
            return None, {}, 0.0
        try:  # Retry-After contains seconds or a date (RFC 9110, section 10.2.3)
            wanted_pause = urllib3.Retry().get_retry_after(response) or 0.0
        except urllib3.exceptions.InvalidHeader:
            wanted_pause = 0.0
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}, wanted_pause


def by_device(post: Post) -> list[tuple[str, Post]]:
    """Return the request split by device, because a token is valid for only one device.

    Events without a device are sent with the events of the first device.
    """
    devices = [_device_of(event.text, post) for event in post.events]
    first = next((device for device in devices if device), NO_DEVICE)
    parts: dict[str, list[Planned]] = {}
    for device, event in zip(devices, post.events, strict=True):
        parts.setdefault(device or first, []).append(event)
    return [(device, replace(post, events=tuple(events))) for device, events in parts.items()]


def _device_of(text: str, post: Post) -> str | None:
    try:
        event = json.loads(text)
        user = event.get("user") or (json.loads(post.user) if post.form == "envelope" else {})
        device = user.get("deviceId") or event.get("deviceId")
    except (ValueError, AttributeError):
        return None
    return device if isinstance(device, str) else None


def fate_of(status: int | None, answer: object) -> Fate:
    """Return the batch's fate under the rule for clients. `answer` is the JSON value of the response's body."""
    if status is None or lacks_receipt(status, answer):
        return "kept"
    if 200 <= status < 300:
        return "delivered"
    return "dropped" if status in (400, 413) else "kept"


def send(
    posts: Iterable[Post],
    client: Client,
    *,
    concurrency: int = 4,
    events_per_second: float = math.inf,
    seconds: float = math.inf,
) -> Iterator[Delivery]:
    """Send requests in the given order, `concurrency` at a time; yield their deliveries in the same order.

    At most a few requests are queued at a time, so that a stream of any length fits into memory. After `seconds`, or
    when the client is stopped, no further requests are queued, and those in the queue are still sent; a stopped client
    sends each of them only once.
    """
    under_way: deque[Future[list[Delivery]]] = deque()
    due = time.monotonic()
    end = due + seconds
    with ThreadPoolExecutor(concurrency, thread_name_prefix="phone") as phones:
        try:
            for post in posts:
                # A sender that has fallen behind the rate catches up on at most one second, not in a large burst.
                due = max(due, time.monotonic() - 1.0)
                # Wait no longer than until the end, because a slow rate may allow the next request only long after it.
                if client.wait(max(0.0, min(due, end) - time.monotonic())) or time.monotonic() >= end:
                    break
                due += len(post.events) / events_per_second
                under_way.append(phones.submit(client.deliver, post))
                while len(under_way) >= 2 * concurrency or (under_way and under_way[0].done()):
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        finally:
            client.stop()
            phones.shutdown(cancel_futures=True)


def count_in(answer: Json, name: str) -> int:
    value = answer.get(name)
    return value if isinstance(value, int) else 0


def rejects_in(answer: Json) -> list[tuple[int, str]]:
    """Return the index and the first reason code of each event that a receipt or a 400 response lists as rejected."""
    errors = answer.get("errors")
    firsts: dict[int, str] = {}
    for error in errors if isinstance(errors, list) else []:
        # An event whose id was used before with different content is also listed, but is accepted.
        if isinstance(error.get("index"), int) and error.get("code") != "event_id_conflict":
            firsts.setdefault(error["index"], str(error.get("code")))
    return list(firsts.items())


def unlisted_rejects(answer: Json) -> int:
    """Return the number of rejected events whose reasons were omitted to keep the response short enough."""
    missing = count_in(answer, "rejected") - len(rejects_in(answer))
    return max(0, missing) if count_in(answer, "errors_omitted") else 0
