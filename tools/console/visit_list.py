"""List the visits in a time range from the marts, the visits table and the event bus."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from starlette.requests import Request

from consumer import keys
from consumer.item_lifetime import KEPT_FOR
from contract.events import Fence
from tools.console import parse_object
from tools.console.known_visits import Known, KnownVisits, Start, start_of
from tools.console.query_parameters import fence_of, time_of
from tools.console.responses import Problem
from tools.console.store_queries import MAX_CSV_VISITS, Ask, StoreQueries


@dataclass(frozen=True)
class Wanted:
    """The visits that a request asks for. `prefix` is the beginning of a truck's or place's name or of a place's
    external id, ignoring case; an empty prefix matches all. `place_name` returns the name that the page shows.
    """

    start: datetime
    end: datetime
    device_id: str | None
    fence: Fence | None
    prefix: str
    place_name: Callable[[Fence], str]


def wanted_of(request: Request, now: datetime, place_name: Callable[[Fence], str]) -> Wanted:
    """Parse the parameters of a request for visits. The default time range is the last 24 hours, or the 24 hours
    before an earlier `to`.
    """
    end = time_of(request, "to", now)
    start = time_of(request, "from", min(now, end) - timedelta(hours=24))
    if start > end:
        raise Problem(400, "`to` must not be before `from`.")
    return Wanted(
        start,
        end,
        request.query_params.get("device_id") or None,
        fence_of(request.query_params.get("fence_id")),
        request.query_params.get("prefix", "").casefold(),
        place_name,
    )


@dataclass(frozen=True)
class Found:
    """The visits found, sorted by entry time. `used` contains the names of the sources that answered, and `missing`
    the problem of each store that did not answer. `more` is the number of earlier visits left out.
    """

    visits: list[Known]
    used: list[str]
    missing: list[Problem]
    more: int


async def find(wanted: Wanted, most: int, bus: KnownVisits, queries: StoreQueries, ask: Ask) -> Found:
    """Return the latest visits that a request asks for, at most `most`, from all stores that answer. The visits
    table is queried only for the visits of a single device.
    """
    start, end, device_id, fence = wanted.start, wanted.end, wanted.device_id, wanted.fence
    found: dict[Start, Known] = {}
    used, missing, left_out = ["bus"], list[Problem](), 0
    try:
        marts, left_out = await ask(
            "snowflake", lambda: queries.mart_visits(start, end, device_id, fence, most)
        )
        used.append("marts")
        found |= {start_of(visit): visit for visit in marts if not bus.is_gone(start_of(visit))}
    except Problem as problem:
        missing.append(problem)
    if device_id is not None:
        try:
            table = await ask("visits", lambda: queries.device_visits(device_id, start))
            used.append("dynamodb")
            crossings = {start_: visit.crossings for start_, visit in found.items()}
            # The table is never behind the marts, so visits that are only in the marts have been restated, unless
            # they may have expired from the table.
            kept_from = keys.timestamp(datetime.now(UTC) - KEPT_FOR)
            found = {start_: visit for start_, visit in found.items() if visit.entered_at < kept_from} | {
                start_of(visit): visit
                for visit in table
                if keys.timestamp(start) <= visit.entered_at <= keys.timestamp(end)
                and (fence is None or visit.fence == fence)
            }
            for start_, visit in found.items():
                visit.crossings = crossings.get(start_)
        except Problem as problem:
            missing.append(problem)
    held = bus.between(keys.timestamp(start), keys.timestamp(end), device_id, fence)
    for start_, visit in held.items():
        found[start_] = _latest(found[start_], visit) if start_ in found else visit
    visits = [
        visit
        for visit in sorted(found.values(), key=lambda visit: visit.entered_at)
        if not wanted.prefix or _begins(visit, wanted)
    ]
    if left_out:  # it already counts the visits before those of the mart
        visits = [visit for visit in visits if visit.entered_at >= marts[0].entered_at]
    return Found(visits[-most:], used, missing, left_out + max(0, len(visits) - most))


async def in_parts(
    wanted: Wanted, bus: KnownVisits, queries: StoreQueries, ask: Ask
) -> AsyncIterator[list[Known]]:
    """Yield the visits that a request asks for, in parts, the earliest first. There is at least one part,
    which may be empty.

    Raises Problem if a store does not answer, because the list would be incomplete, or if there are more than
    MAX_CSV_VISITS visits in the time range.
    """
    try:
        if wanted.device_id is not None:
            found = await find(wanted, MAX_CSV_VISITS, bus, queries, ask)
            if found.missing:
                details = " ".join(problem.detail for problem in found.missing)
                raise Problem(503, details, found.missing[0].source)
            if found.more:
                raise Problem(
                    400, f"More than {MAX_CSV_VISITS} visits: choose a place or a shorter time range."
                )
            yield found.visits
            return
        start, end, fence = wanted.start, wanted.end, wanted.fence
        if await ask("snowflake", lambda: queries.count_visits(start, end, fence)) > MAX_CSV_VISITS:
            raise Problem(
                400, f"More than {MAX_CSV_VISITS} visits: choose a truck, a place or a shorter time range."
            )
        held = bus.between(keys.timestamp(start), keys.timestamp(end), None, fence)
        last: tuple[datetime, str] | None = (start, "")
        while last is not None:
            marts, last = await ask("snowflake", partial(queries.visits_after, last, end, fence))
            some = [
                _latest(visit, held.pop(start_of(visit), None))
                for visit in marts
                if not bus.is_gone(start_of(visit))
            ]
            # Add the visits that only the bus has, up to the end of this part; the last part gets the rest.
            reached = marts[-1].entered_at if last else None
            for start_ in [start_ for start_ in held if reached is None or start_[2] <= reached]:
                some.append(held.pop(start_))
            some.sort(key=lambda visit: visit.entered_at)
            yield [visit for visit in some if not wanted.prefix or _begins(visit, wanted)]
    except Problem as problem:
        if problem.status != 503:
            raise
        raise Problem(503, f"The list would be incomplete. {problem.detail}", problem.source) from None


def _latest(visit: Known, held: Known | None) -> Known:
    """Return the later version of a visit: `held` from the console's memory, or `visit` from the mart or the
    visits table. `visit` is later if there is no `held`, or if `held` was read from a table and `visit` is closed.
    """
    if held is None or (held.version < 0 and not visit.is_open):
        return visit
    held.crossings = held.crossings or visit.crossings
    return held


def as_json(wanted: Wanted, found: Found, bus: KnownVisits) -> dict[str, object]:
    return {
        "visits": [bus.row(visit) for visit in found.visits],
        "from": parse_object.written(wanted.start),
        "to": parse_object.written(wanted.end),
        "source": found.used,
        "missing": [problem.detail for problem in found.missing],
        "more": found.more,
    }


def _begins(visit: Known, wanted: Wanted) -> bool:
    names = (visit.device_id, visit.fence.external_id, wanted.place_name(visit.fence))
    return any(name.casefold().startswith(wanted.prefix) for name in names)
