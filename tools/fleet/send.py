"""Send events to the endpoint as a phone does, and report each request's result.

The client's rule (README, "Send events"): 2xx delete; 400 drop and report; 413 split in two and send again, a
single event is dropped; any other 4xx keeps the batch and tries again with growing pauses; anything else, or
no answer, sends the identical bytes again.
"""

import gzip
import json
import math
import random
import secrets
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Literal, cast

import typer
import urllib3

from contract.events import GEOFENCE_KINDS, geofence_event
from contract.lines import lines_in
from handler.limits import MAX_BODY_BYTES, MAX_INFLATED_BYTES
from handler.parse_body import Parts
from handler.validate import validate
from ops import terminal
from ops.outputs import Outputs
from snowpipe.refusal import Refusal
from tools.fleet import rounds
from tools.fleet.rounds import Plan, Planned, Post
from tools.stack.identity import NO_DEVICE, Tokens

type Fate = Literal["delivered", "dropped", "kept"]
type Json = dict[str, object]

# The outcome of an event that alone makes a request too large: the client's rule drops it.
TOO_LARGE = "body_too_large"
# API Gateway itself answers after 29 seconds.
_TIMEOUT = urllib3.Timeout(connect=3, read=32)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request's result: deleted from the phone, dropped, or still kept at the timeout.

    `status` is None if no answer came; `posted_at` and `seconds` are of the last try; `answer` is {} if the
    body was not a JSON object.
    """

    post: Post
    fate: Fate
    status: int | None
    answer: Json
    posted_at: datetime
    seconds: float
    statuses: tuple[int | None, ...]


class Client:
    """Posts for one app. A request is tried for `patience` seconds, then left undelivered."""

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        *,
        patience: float = 120.0,
        first_pause: float = 0.2,
        connections: int = 8,
        token_of: Callable[[str, bool], str] | None = None,
    ) -> None:
        """`token_of` returns a token for a device, a new one on request; None: only the API key."""
        self._endpoint = endpoint
        self._headers = {"x-api-key": api_key, "user-agent": "milkrun-ops-send"}
        self._token_of = token_of
        self._patience = patience
        self._first_pause = first_pause
        self._stopped = threading.Event()
        # Retries follow the client's rule, not the library's.
        self._http = urllib3.PoolManager(maxsize=connections, block=True, retries=False, timeout=_TIMEOUT)

    @classmethod
    def of(cls, outputs: Outputs, *, patience: float = 120.0, connections: int = 8) -> "Client":
        """Return a client for a stage, with tokens if it is a local stage that requires them."""
        token_of = Tokens(outputs.token_issuer) if outputs.token_issuer else None
        return cls(
            outputs.endpoint, outputs.api_key, patience=patience, connections=connections, token_of=token_of
        )

    def stop(self) -> None:
        """End all pauses between retries; undelivered requests stay undelivered."""
        self._stopped.set()

    def wait(self, seconds: float) -> bool:
        """Wait for a pause between tries; return whether the client was stopped meanwhile."""
        return self._stopped.wait(seconds)

    def deliver(self, post: Post) -> list[Delivery]:
        """Send a request. Return one delivery, or one per part of a split request: by device with tokens, or
        after a 413.
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
        give_up_at = time.monotonic() + self._patience
        while True:
            if self._token_of:
                is_refused = statuses[-1:] == [401]
                headers["authorization"] = f"Bearer {self._token_of(device, is_refused)}"
            posted_at, began = datetime.now(UTC), time.perf_counter()
            status, answer, wanted_pause = self._post(body, headers)
            seconds = time.perf_counter() - began
            statuses.append(status)
            fate = fate_of(status)
            # Jitter keeps phones from retrying at the same time; Retry-After comes from the server.
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
        try:  # seconds or a date (RFC 9110, section 10.2.3)
            wanted_pause = min(30.0, urllib3.Retry().get_retry_after(response) or 0.0)
        except urllib3.exceptions.InvalidHeader:
            wanted_pause = 0.0
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}, wanted_pause


def by_device(post: Post) -> list[tuple[str, Post]]:
    """Split a request by device, because a token names one device.

    Events without a device stay with the first device's events.
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


def fate_of(status: int | None) -> Fate:
    if status is not None and 200 <= status < 300:
        return "delivered"
    return "dropped" if status in (400, 413) else "kept"


def send(
    posts: Iterable[Post], client: Client, *, concurrency: int = 4, events_per_second: float = math.inf
) -> Iterator[Delivery]:
    """Deliver in the given order, `concurrency` requests at a time; yield the deliveries in the same order.

    Reads from `posts` only what is being sent, so that a stream of any length fits into memory. Ends when the client
    is stopped, after the deliveries that had begun.
    """
    under_way: deque[Future[list[Delivery]]] = deque()
    due = time.monotonic()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="phone") as phones:
        try:
            for post in posts:
                # Falling behind the rate is not made up for by a burst.
                due = max(due, time.monotonic() - 1.0)
                if client.wait(max(0.0, due - time.monotonic())):
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


def for_seconds(posts: Iterable[Post], seconds: float) -> Iterator[Post]:
    """Yield posts until that many seconds have passed."""
    end = time.monotonic() + seconds
    for post in posts:
        if time.monotonic() >= end:
            return
        yield post


def until_events(posts: Iterable[Post], events: int) -> Iterator[Post]:
    """Yield the first posts, with the last one shortened so that exactly that many events are sent."""
    left = events
    for post in posts:
        if left <= len(post.events):
            yield replace(post, events=post.events[:left])
            return
        left -= len(post.events)
        yield post


# --- files


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of an NDJSON file, plain or gzip, split as the handler does; invalid UTF-8 is kept.

    Raises Refusal if its gzip is damaged or truncated.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        # GzipFile also reads concatenated members, which are common in log archives.
        lines = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
        try:
            for line in lines:
                for _, text in lines_in(line):
                    yield text.decode("utf-8", "surrogateescape")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise Refusal(f"{path} cannot be read to its end: {error}") from None


def unjudged(text: str) -> Planned:
    """Return the line as an event whose expected outcome is unknown."""
    return Planned(text, "")


def judged(text: str) -> Planned:
    """Return the line as an event with its expected outcome, computed by the handler's own rule."""
    raw = text.encode("utf-8", "surrogateescape")
    if is_too_large_alone(raw):
        return Planned(text, "", code=TOO_LARGE)
    batch = validate(Parts([raw], {}), "ndjson", GEOFENCE_KINDS, datetime.now(UTC))
    if batch.rejected:
        [rejected] = batch.rejected
        return Planned(text, rejected.event_id or "", code=rejected.reasons[0].code)
    [line] = batch.lines
    crossing = geofence_event(line) if batch.records else None
    return Planned(text, str(json.loads(line)["_id"]), crossing=crossing)


def is_too_large_alone(line: bytes) -> bool:
    """Return whether a request with only this line gets 413, so that the phone drops it."""
    if len(line) > MAX_INFLATED_BYTES:
        return True
    return len(line) > MAX_BODY_BYTES and len(gzip.compress(line, mtime=0)) > MAX_BODY_BYTES


def posts_of_file(
    path: Path,
    *,
    batch_size: int = 500,
    max_bytes: int = 900_000,
    gzipped: bool = True,
    judge: Callable[[str], Planned] = unjudged,
) -> Iterator[Post]:
    """Yield the file's events as NDJSON requests of at most `batch_size` events and `max_bytes` uncompressed."""
    batch: list[Planned] = []
    size = 0
    for text in read_lines(path):
        length = len(text.encode("utf-8", "surrogateescape")) + 1
        if batch and (len(batch) == batch_size or size + length > max_bytes):
            yield Post(tuple(batch), datetime.now(UTC), gzipped=gzipped)
            batch, size = [], 0
        batch.append(judge(text))
        size += length
    if batch:
        yield Post(tuple(batch), datetime.now(UTC), gzipped=gzipped)


# --- figures


@dataclass(slots=True)
class Tally:
    """The totals of a run of `send`."""

    requests: int = 0
    events: int = 0
    accepted: int = 0
    duplicates: int = 0
    resent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    undelivered: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, delivery: Delivery) -> None:
        self.requests += 1
        self.events += len(delivery.post.events)
        self.resent += len(delivery.statuses) - 1
        self.statuses.update(str(status or "no answer") for status in delivery.statuses)
        self.undelivered += len(delivery.post.events) if delivery.fate == "kept" else 0
        self.dropped += len(delivery.post.events) if delivery.status == 413 else 0
        self.accepted += count_in(delivery.answer, "accepted")
        self.duplicates += count_in(delivery.answer, "duplicates")
        self.rejected.update(code for _, code in rejects_in(delivery.answer))
        self.seconds.append(delivery.seconds)

    def figures(self, elapsed: float) -> Json:
        return {
            "requests": self.requests,
            "events": self.events,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": dict(self.rejected.most_common()),
            "dropped": self.dropped,
            "undelivered": self.undelivered,
            "sent_again": self.resent,
            "statuses": dict(sorted(self.statuses.items())),
            "latency_ms": {
                f"p{p:g}": round(percentile(self.seconds, p) * 1000, 1) for p in (50, 90, 95, 99, 100)
            },
            "elapsed_s": round(elapsed, 2),
            "events_per_s": round(self.events / elapsed, 1) if elapsed else 0.0,
            "requests_per_s": round(self.requests / elapsed, 1) if elapsed else 0.0,
        }


def count_in(answer: Json, name: str) -> int:
    value = answer.get(name)
    return value if isinstance(value, int) else 0


def rejects_in(answer: Json) -> list[tuple[int, str]]:
    """Return the index and the first reason code of each rejected event in a receipt or a 400 response."""
    errors = answer.get("errors")
    firsts: dict[int, str] = {}
    for error in errors if isinstance(errors, list) else []:
        # An event whose id had other content before is listed too, but is accepted.
        if isinstance(error.get("index"), int) and error.get("code") != "event_id_conflict":
            firsts.setdefault(error["index"], str(error.get("code")))
    return list(firsts.items())


def percentile(values: list[float], percent: float) -> float:
    """Return the nearest-rank percentile, which is always a measured value; 0.0 if there is none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


# --- the command


def _run_id(text: str) -> str:
    try:
        return rounds.checked_run_id(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


FILE_HELP = "Send the events of this file (NDJSON, plain or gzipped) instead of sample traffic."
Trucks = Annotated[int, typer.Option(min=1, help="Number of trucks in the sample traffic.")]
Farms = Annotated[int, typer.Option(min=1, help="Number of farms in the sample traffic.")]
Seed = Annotated[int, typer.Option(help="Seed of the sample traffic; equal seeds give equal rounds.")]


def command(
    context: typer.Context,
    *,
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help=FILE_HELP),
    ] = None,
    events: Annotated[int | None, typer.Option(min=1, help="Number of events to send.")] = None,
    duration: Annotated[
        float | None,
        typer.Option(min=0, max=terminal.MAX_SECONDS, help="Number of seconds for which to send events."),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Maximum number of events per second.")] = math.inf,
    trucks: Trucks = 12,
    farms: Farms = 40,
    duplicates: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the events that are sent a second time.")
    ] = 0.04,
    late: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the events that are sent late, in shuffled bursts.")
    ] = 0.12,
    invalid: Annotated[
        float, typer.Option(min=0, max=1, help="Number of invalid events to add, as a share of all events.")
    ] = 0.012,
    batch: Annotated[
        int | None, typer.Option(min=1, max=500, help="Maximum number of events per request.")
    ] = None,
    seed: Seed = 1,
    run: Annotated[
        str | None,
        typer.Option(
            help="The first 8 hexadecimal digits of every event id. Default: random digits.",
            parser=_run_id,
            metavar="RUN",
        ),
    ] = None,
    begin: Annotated[
        datetime,
        typer.Option(parser=terminal.time, help="Time at which the sample morning begins.", metavar="TIME"),
    ] = "8 hours ago",  # type: ignore[assignment]  # typer parses it like any other value
    gzip_: Annotated[
        bool | None,
        typer.Option(
            "--gzip/--no-gzip", help="Compress all requests, or none. Default: compress those of some phones."
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=64, help="Maximum number of concurrent requests.")
    ] = 4,
    patience: Annotated[
        float,
        typer.Option(
            min=0, max=terminal.MAX_SECONDS, help="Number of seconds for which a failing request is retried."
        ),
    ] = 120,
    stage: terminal.Stage = "local",
    yes: terminal.Yes = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Send sample traffic: one morning (default), continuous load, or a file.

    With --events or --duration, the load continues until the number of events is reached or the time is over.
    After Ctrl-C the command prints the results so far and ends. It asks for confirmation before it sends sample
    traffic to a deployed stage.
    """
    outputs = terminal.outputs_of(context, stage)
    if not file:
        terminal.confirm_sample_traffic(stage, yes)
    if file:
        posts = posts_of_file(file, batch_size=batch or 500)
    else:
        plan = Plan(
            run=run or new_run_id(),
            begins_at=begin,
            seed=seed,
            trucks=trucks,
            farms=farms,
            duplicates=duplicates,
            late=late,
            invalid=invalid,
            batch_size=batch or 20,
        )
        posts = rounds.endless(plan) if events or duration else rounds.posts(plan)
        terminal.err.print(f"run {plan.run}, seed {seed}")
    if gzip_ is not None:
        posts = (replace(post, gzipped=gzip_) for post in posts)
    if events:
        posts = until_events(posts, events)
    if duration:
        posts = for_seconds(posts, duration)
    client = Client.of(outputs, patience=patience, connections=concurrency)
    tally, began = Tally(), time.monotonic()
    with terminal.progress() as bars, terminal.stopped_by_ctrl_c(client.stop) as interrupted:
        task = bars.add_task("sending", total=events)
        for delivery in send(posts, client, concurrency=concurrency, events_per_second=rate):
            tally.add(delivery)
            bars.advance(task, len(delivery.post.events))
    terminal.show(tally.figures(time.monotonic() - began), as_json)
    if interrupted.is_set():
        raise typer.Exit(130)
    if tally.undelivered:
        raise typer.Exit(1)


def new_run_id() -> str:
    return secrets.token_hex(4)
