"""`milkrun send`: send sample traffic or a file to a stage, and print the totals."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated

import typer

from ops import terminal
from ops.percentile import percentile
from tools.fleet import phones
from tools.fleet.client import Client, Delivery, Json, count_in, rejects_in, send, unlisted_rejects
from tools.fleet.event_file import posts_of_file
from tools.fleet.phones import Post
from tools.fleet.shared_options import EventsFile, Farms, Seed, Trucks, refuse_with_a_file
from tools.fleet.traffic_parameters import (
    DEFAULT_DUPLICATES,
    DEFAULT_FARMS,
    DEFAULT_INVALID,
    DEFAULT_LATE,
    DEFAULT_TRUCKS,
    Plan,
    checked_run_id,
    new_run_id,
)


def until_events(posts: Iterable[Post], events: int) -> Iterator[Post]:
    """Yield posts until they contain exactly `events` events in total; the last one is shortened if necessary."""
    left = events
    for post in posts:
        if left <= len(post.events):
            yield replace(post, events=post.events[:left])
            return
        left -= len(post.events)
        yield post


@dataclass(slots=True)
class Tally:
    """The running totals of `milkrun send` or `milkrun demo --live`."""

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
        if unlisted := unlisted_rejects(delivery.answer):
            self.rejected["reason_not_listed"] += unlisted
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


def _run_id(text: str) -> str:
    try:
        return checked_run_id(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def command(
    context: typer.Context,
    *,
    file: EventsFile = None,
    events: Annotated[int | None, typer.Option(min=1, help="Number of events to send.")] = None,
    duration: Annotated[
        float | None,
        typer.Option(min=0, max=terminal.MAX_SECONDS, help="Number of seconds for which to send events."),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Maximum number of events per second.")] = math.inf,
    trucks: Trucks = DEFAULT_TRUCKS,
    farms: Farms = DEFAULT_FARMS,
    duplicates: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the events that are sent a second time.")
    ] = DEFAULT_DUPLICATES,
    late: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the events that are sent late, in shuffled bursts.")
    ] = DEFAULT_LATE,
    invalid: Annotated[
        float, typer.Option(min=0, max=1, help="Number of invalid events to add, as a share of all events.")
    ] = DEFAULT_INVALID,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, max=500, help="Maximum number of events per request. Default: 20, or 500 for a file."
        ),
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
        datetime | None,
        typer.Option(
            parser=terminal.time,
            help="Time at which the sample morning begins.",
            metavar="TIME",
            show_default="8 hours ago",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=64, help="Maximum number of concurrent requests.")
    ] = 4,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            "--patience",
            min=0,
            max=terminal.MAX_SECONDS,
            help="Number of seconds for which a failing request is retried.",
        ),
    ] = 120,
    stage: terminal.Stage = "local",
    yes: terminal.Yes = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Send sample traffic: one morning (default), continuous load, or a file.

    With --events or --duration, the load continues until that number of events has been sent or that time has
    passed. After Ctrl-C the command prints the results so far and ends. It asks for confirmation before it sends
    sample traffic to a deployed stage. Exit code 1: some events were not delivered before the timeout.
    """
    if file:
        refuse_with_a_file(
            context, "trucks", "farms", "duplicates", "late", "invalid", "seed", "run", "begin"
        )
    outputs = terminal.outputs_of(context, stage)
    if not file:
        terminal.confirm_sample_traffic(stage, yes)
    if file:
        posts = posts_of_file(file, batch_size=batch or 500)
    else:
        plan = Plan(
            run=run or new_run_id(),
            begins_at=begin or terminal.time("8 hours ago"),
            seed=seed,
            trucks=trucks,
            farms=farms,
            duplicates=duplicates,
            late=late,
            invalid=invalid,
            batch_size=batch or 20,
        )
        posts = phones.endless(plan) if events or duration is not None else phones.posts(plan)
        terminal.err.print(f"run {plan.run}, seed {seed}")
    if events:
        posts = until_events(posts, events)
    client = Client.of(outputs, timeout_s=timeout_s, connections=concurrency)
    tally, began = Tally(), time.monotonic()
    with terminal.progress() as bars, terminal.stopped_by_ctrl_c(client.stop) as interrupted:
        task = bars.add_task("sending", total=events)
        for delivery in send(
            posts,
            client,
            concurrency=concurrency,
            events_per_second=rate,
            seconds=math.inf if duration is None else duration,
        ):
            tally.add(delivery)
            bars.advance(task, len(delivery.post.events))
    terminal.show(tally.figures(time.monotonic() - began), as_json)
    if interrupted.is_set():
        raise typer.Exit(130)
    if tally.undelivered:
        raise typer.Exit(1)
