"""`milkrun trace`: show where an event, object or request is, and every step on its way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

import typer

from ops import terminal
from ops.reachable_stores import tell, unreachable, with_or_without_warehouse
from ops.trace_steps import Finder, Step, is_key, lags
from snowpipe.warehouse import Row, Warehouse

# With --device, events are searched for from this long before --at until this long after it.
NEAR = timedelta(minutes=5)
MAX_DEVICES = 20  # the maximum number of devices that have used the same event id

type Arrival = Literal["arrived", "not arrived", "unknown"]
EXIT_CODES: Mapping[Arrival, int] = {"arrived": 0, "not arrived": 1, "unknown": 2}


def verdict(steps: Sequence[Step], unasked: Mapping[str, str]) -> tuple[str, Arrival]:
    """Return a one-line summary of the steps, and whether everything has arrived where it should.

    A rejected event has arrived if it is stored under `rejected/` and loaded.
    """
    by_name = {step.what: step for step in reversed(steps)}
    place = next((f"s3://…/{step.detail['key']}" for step in steps if "key" in step.detail), "")
    seen = [step.what for step in steps if step.at]
    if not seen:  # a key that is neither in S3 nor in RAW also has steps, without a time
        return (
            ("NOT FOUND in the stores that answered", "unknown") if unasked else ("NOT FOUND", "not arrived")
        )
    if problem := next(_problems(by_name, place), None):
        return problem, "not arrived"
    also = ""
    if "rejected" in by_name:
        reasons = by_name["rejected"].detail["reasons"]
        # An event may be rejected first and accepted later, for example after `milkrun rejects send`.
        if not any(map(_is_accepted, steps)):
            is_known = "loaded" in by_name or not unasked
            return f"REJECTED: {reasons}, stored in {place}", "arrived" if is_known else "unknown"
        also = f"; another delivery was rejected: {reasons}"
    if unasked:
        steps_found = ", ".join(dict.fromkeys(seen))
        return f"NO PROBLEM FOUND, but not every store answered; steps found: {steps_found}", "unknown"
    ends = [name for name in ("loaded", "staged", "consumed", "in a visit") if name in by_name]
    return f"ARRIVED: archived, {', '.join(ends)}{also}", "arrived"


def _is_accepted(step: Step) -> bool:
    """Return whether a step concerns a copy of the event that was accepted: an object under `events/`, or its rows."""
    return step.detail.get("table") == "RAW.EVENTS" or str(step.detail.get("key", "")).startswith("events/")


def _problems(by_name: Mapping[str, Step], place: str) -> Iterator[str]:
    """Yield a sentence for each problem with the event, causes before consequences."""
    if "answered, nothing stored" in by_name:
        detail = by_name["answered, nothing stored"].detail
        cause = detail.get("error") or detail.get("code")
        why = f" ({cause})" if cause else ""
        yield f"NOT STORED: the response was {detail['status']}{why}"
    if "set aside" in by_name:
        detail = by_name["set aside"].detail
        where = f"s3://…/{detail['key']}" if "key" in detail else place
        yield f"QUARANTINED: {detail['reasons']}, stored in {where}"
    elif "archived" in by_name and place.startswith("s3://…/set-aside/"):
        yield f"QUARANTINED: stored in {place}"
    if "gone from S3" in by_name and len(by_name) > 1:
        yield f"GONE: {place} is no longer in S3"
    if "not loaded" in by_name:
        yield f"NOT LOADED: stored in {place}, but RAW contains no row"
    if "not on the stream" in by_name and "not consumed" in by_name:
        queued = "answered, some events enqueued for redrive" in by_name
        yield (
            "WAITS FOR THE STREAM: queued for redrive"
            if queued
            else "NOT PUBLISHED: archived, but not on the stream"
        )
    if "not consumed" in by_name:
        yield "NOT CONSUMED: the consumer has not processed the event"


def steps_of(
    finder: Finder,
    what: str,
    start: datetime,
    end: datetime,
    advance: Callable[[int], None],
    device: str | None = None,
) -> list[Step]:
    """Return the steps of the object with this key, the request with this id, or the event with this id.

    With `device`, `what` is the id of an event of this device in RAW.
    """
    if device:
        return finder.loaded_event(what, device)
    steps = finder.object(what) if is_key(what) else []
    if not any(step.at for step in steps):  # an event id may look like a key
        steps = finder.loaded_event(what, max_devices=MAX_DEVICES) or steps
    # Last, because searching the log and the archive of a busy stage takes minutes.
    if not any(step.at for step in steps):
        steps = finder.request(what, start, end) or steps
    if not any(step.at for step in steps):
        steps += finder.archived_event(what, start, end, advance)
    return steps


def command(
    context: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(
            parser=terminal.not_empty,
            metavar="EVENT_ID|KEY|REQUEST_ID",
            help="Id of an event, key of an archived object, or request_id of an API response.",
        ),
    ] = None,
    *,
    device: Annotated[
        str | None, terminal.text_option("DEVICE", "Instead of an id: the device that sent the event.")
    ] = None,
    at: Annotated[
        datetime | None, terminal.time_option("With --device: the time of the event, to within 5 minutes.")
    ] = None,
    start: Annotated[
        datetime,
        terminal.time_option(
            "First hour of the search for a request, or for an event that RAW lacks.", "--from"
        ),
    ] = terminal.TWO_DAYS_AGO,
    end: Annotated[
        datetime, terminal.time_option("Last hour of the search (see --from).", "--to")
    ] = terminal.NOW,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
    wide: terminal.Wide = False,
) -> None:
    """Show where an event, object or request is, and every step on its way, in time order.

    The exit code is 0 if everything has arrived where it should, 1 if something has not, and 2 if this is
    unknown, because a store did not answer. If --device and --at select no event or several events, the exit code is
    1, or 2 if a store did not answer.
    """
    if (what is None) == (device is None) or (device is None) != (at is None):
        raise typer.BadParameter("name an event, an object or a request, or use --device and --at")
    if device and any(terminal.is_given(context, name) for name in ("start", "end")):
        raise typer.BadParameter("--from and --to have no effect with --device, which searches only RAW")
    terminal.check_range(start, end)
    outputs = terminal.outputs_of(context, stage)
    unasked = unreachable(outputs)
    with terminal.progress() as bars:
        task = bars.add_task("looking", total=None)

        def find(warehouse: Warehouse | None) -> tuple[Finder, list[Step]]:
            finder, event = Finder(outputs, stage, warehouse, unasked), what
            if at is not None and device is not None:
                near = finder.near(device, at - NEAR, at + NEAR)
                if len(near) != 1:
                    _choose(near, unasked, as_json)
                event = near[0]["event_id"]
            return finder, steps_of(finder, str(event), start, end, lambda n: bars.advance(task, n), device)

        finder, steps = with_or_without_warehouse(outputs, unasked, find)
    said, arrival = verdict(steps, unasked)
    rows = lags(steps)
    if as_json:
        terminal.print_json(
            {
                "verdict": said,
                "arrival": arrival,
                "steps": rows,
                "searched": finder.searched,
                "unasked": unasked,
            }
        )
    else:
        terminal.out.print(said, style="bold", markup=False)
        terminal.show_rows(rows, False, wide=wide)
        terminal.note(f"searched: {'; '.join(finder.searched)}")
        tell(unasked)
    raise typer.Exit(EXIT_CODES[arrival])


def _choose(near: Sequence[Row], unasked: Mapping[str, str], as_json: bool) -> None:
    """List the events from which the operator must choose one, and exit."""
    title, empty = "Events of this device around that time", "no event of this device around that time"
    terminal.show_rows(near, as_json, title=title, empty=empty)
    tell(unasked)
    raise typer.Exit(2 if unasked else 1)
