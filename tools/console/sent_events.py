"""Responses for app developers' tests: the outcome of the events that a test sent."""

import asyncio
import time

from starlette.requests import Request

from tools.console import parse_object
from tools.console.query_parameters import number
from tools.console.recent_events import RecentEvents
from tools.console.responses import Raw

MAX_WAIT_S = 30


async def good(held: RecentEvents, request: Request) -> list[dict[str, object]]:
    names = ("event_id", "type", "device_id", "received_at", "key", "line")
    return [
        {"event": Raw(event.stored), **{name: getattr(event, name) for name in names}}
        for event in await _first_match(held, "good", request)
    ]


async def bad(held: RecentEvents, request: Request) -> list[dict[str, object]]:
    names = ("reasons", "event_id", "received_at", "key", "line")
    return [
        parse_object.sent_of(event.stored) | {name: getattr(event, name) for name in names}
        for event in await _first_match(held, "bad", request)
    ]


async def _first_match(held: RecentEvents, kind: str, request: Request) -> list[parse_object.Event]:
    """Return the events that match the request's parameters, the newest first. If none matches, wait up to
    `wait` seconds for the first match.
    """
    asked = request.query_params
    limit = number(request, "limit", 100, 5000)
    deadline = time.monotonic() + number(request, "wait", 0, MAX_WAIT_S)
    while True:
        found = held.matching(
            kind,
            limit=limit,
            event_id=asked.get("event_id", ""),
            type_=asked.get("type", ""),
            device=asked.get("device", ""),
            code=asked.get("code", ""),
        )
        if found or time.monotonic() >= deadline:
            return found
        await asyncio.sleep(0.1)
