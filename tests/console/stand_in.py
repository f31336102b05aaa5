"""A fake console server. It serves the real pages and the same data structures as the real server, but the
test sets their content.

It is used for states that a real stack cannot reach within the duration of a test (200 trucks that each send a
position every second, expired credentials, a broken stream), and for working on the page without a stack:

    .venv/bin/python -m tests.console.stand_in --port 6320 --trucks 40
"""

import argparse
import asyncio
import json
import math
import random
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from consumer.visits import visits_of
from contract.events import Fence, GeofenceEvent
from ops.presence_rule import presence
from tests.time_zones import zone_in_which_it_is_one_in_the_afternoon
from tools.console.security_headers import HEADERS, policy
from tools.fleet.phones import posts
from tools.fleet.traffic_parameters import Plan

type Json = dict[str, Any]
type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATIC = Path(__file__).parents[2] / "tools" / "console" / "static"
SOURCES = {
    "archive": "S3: the archive",
    "live": "SQS: notifications from the archive's topic and the visits event bus",
    "logs": "CloudWatch: the functions' log lines",
    "visits": "DynamoDB: the visits table",
    "queues": "SQS: the redrive queues",
    "snowflake": "Snowflake: RAW and the marts",
}
STAGES = {
    "accepted": "Accepted",
    "rejected": "Rejected",
    "archived": "Archived",
    "published": "Published",
    "redriven": "Redriven",
    "consumed": "Consumed",
    "set_aside": "Quarantined",
    "loaded": "Loaded",
    "marts": "In the marts",
}


def iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> datetime:
    return datetime.now(UTC)


def fence_id(fence: Fence) -> str:
    return f"{fence.tag}#{fence.external_id}"


@dataclass
class State:
    """The data with which the fake server responds. Tests change it, and inform open pages of a change
    with `Feed.say`.
    """

    stage: Json
    sources: list[Json]
    fences: list[Json] = field(default_factory=list)
    trucks: list[Json] = field(default_factory=list)
    there: list[Json] = field(default_factory=list)
    visits: list[Json] = field(default_factory=list)
    good: list[Json] = field(default_factory=list)
    bad: list[Json] = field(default_factory=list)
    details: dict[int, Json] = field(default_factory=dict)
    pipeline: Json = field(default_factory=dict)
    days: list[Json] = field(default_factory=list)
    daily_from: str = "2000-01-01"
    daily_cut: bool = False
    replay: Json = field(default_factory=dict)

    @property
    def counted(self) -> Json:
        return {"good": len(self.good), "bad": len(self.bad)}

    def snapshot(self) -> Json:
        return {
            "stage": self.stage | {"now": iso(now())},
            "sources": self.sources,
            "fences": self.fences,
            "trucks": self.trucks,
            "there": self.there,
            "pipeline": self.pipeline,
            "events": {"good": self.good[:100], "bad": self.bad[:100], "counted": self.counted},
        }


def empty() -> State:
    """Return the state of a console that has just started and has no data yet."""
    at = iso(now())
    return State(
        stage={
            "stage": "local",
            "local": True,
            "region": "us-east-1",
            "endpoint": "http://127.0.0.1:6300/_aws/execute-api/api/local/v1/events",
            "bucket": "milkrun-local-archive",
            "database": "MILKRUN",
            "version": "0.1.0",
            "live_bus": True,
            "tiles": None,
            "time_zone": zone_in_which_it_is_one_in_the_afternoon(),
        },
        sources=[
            {
                "name": n,
                "state": "ok",
                "since": at,
                "reason": None,
                "cause": None,
                "last_ok_at": at,
                "what": what,
            }
            for n, what in SOURCES.items()
        ],
        pipeline=pipeline({name: [0] * 60 for name in STAGES}),
    )


def pipeline(per_minute: dict[str, list[int]], **changes: object) -> Json:
    busy = any(sum(values) for values in per_minute.values())
    return {
        "verdict": "healthy" if busy else "idle",
        "says": "No accepted event is overdue." if busy else "No events in the last hour.",
        "stuck_at": None,
        "stages": [
            {
                "name": name,
                "title": title,
                "count": sum(per_minute[name]),
                "total": sum(per_minute[name]) * 3,
                "rate": per_minute[name][-2] / 60,
                "lag_s": 0.4 if sum(per_minute[name]) else None,
                "per_minute": per_minute[name],
                "last_at": iso(now()) if sum(per_minute[name]) else None,
                "state": "ok" if sum(per_minute[name]) else "idle",
                "note": None,
                "detail": None,
            }
            for name, title in STAGES.items()
        ],
        "waiting": {
            "redrive_queue": 0,
            "dead_letters": 0,
            "pipes": {n: {"state": "RUNNING", "pending_files": 0} for n in ("EVENTS_PIPE", "REJECTED_PIPE")},
        },
        "latency": {
            "store_ms_p50": 12,
            "store_ms_p99": 40,
            "publish_ms_p50": 9,
            "publish_ms_p99": 31,
            "lateness_s_p50": 1.2,
            "lateness_s_p99": 900.0,
            "answered": {"202": 182, "400": 3} if busy else {},
            "rejected_by_code": {"missing_id": 3, "invalid_created_at": 2, "not_json": 2} if busy else {},
        },
        "reconcile": {
            "state": "done",
            "equal": True,
            "at": iso(now()),
            "seconds": 1.1,
            "from": iso(now() - timedelta(hours=1)),
            "to": iso(now()),
            "differences": [],
            "more": 0,
            "in_flight": 0,
            "geofence_events": {"archived": 478, "consumed": 478, "too_old": 0},
            "problem": None,
        },
        "window": {"from": iso(now() - timedelta(hours=1)), "minutes": 60},
    } | changes


def morning(trucks: int = 12, hours_ago: float = 3.0) -> State:
    """Return the state after collection rounds that began `hours_ago` hours ago and continue until now. The events
    are generated by the same code as in `milkrun send`.
    """
    state = empty()
    plan = Plan("9fa53925", now() - timedelta(hours=hours_ago), trucks=trucks)
    rng = random.Random(7)
    sent = [post for post in posts(plan) if post.sent_at <= now()]
    crossings: dict[str, GeofenceEvent] = {}
    places: dict[Fence, list[tuple[float, float]]] = {}
    ways: dict[str, list[tuple[datetime, float, float]]] = {}
    seq = 0
    for post in sent:
        for planned in post.events:
            seq += 1
            key = f"dt={post.sent_at:%Y-%m-%d}/hh={post.sent_at:%H}/{rng.randbytes(16).hex()}.7.ndjson.gz"
            common = {
                "seq": seq,
                "received_at": iso(post.sent_at),
                "line": rng.randint(1, 20),
                "size": len(planned.text),
            }
            if planned.code:
                code = planned.code
                event = common | {
                    "kind": "bad",
                    "event_id": planned.event_id,
                    "type": "user.updated_trip",
                    "device_id": None,
                    "at": "half past six",
                    "key": f"rejected/{key}",
                    "codes": [code],
                    "reasons": [{"code": code, "field": "createdAt", "message": "This event is invalid."}],
                    "app_version": "4.2.0",
                }
                state.bad.insert(0, event)
            else:
                body = json.loads(planned.text)
                device = (body.get("user") or json.loads(post.user))["deviceId"]
                crossing = planned.crossing
                event = common | {
                    "kind": "good",
                    "event_id": planned.event_id,
                    "type": body["type"],
                    "device_id": device,
                    "at": body["createdAt"],
                    "key": f"events/{key}",
                    "fence_id": fence_id(crossing.fence) if crossing else None,
                }
                lon, lat = body["location"]["coordinates"]
                at = datetime.fromisoformat(body["createdAt"])
                ways.setdefault(device, []).append((at, lon, lat))
                if crossing:
                    crossings[crossing.event_id] = crossing
                    places.setdefault(crossing.fence, []).append((lon, lat))
                state.good.insert(0, event)
            state.details[seq] = event | {
                "raw": planned.text,
                "stored": planned.text,
                "raw_truncated": False,
                "s3_uri": f"s3://milkrun-local-archive/{event['key']}",
                "sql": f"SELECT payload FROM MILKRUN.RAW.EVENTS WHERE file_name = '{event['key']}'",
            }
    contradicting = {
        (each.pair, each.visit.entered_event_id): each.contradicted_by
        for each in presence(crossings.values())
        if each.contradicted_by
    }
    for pair, history in visits_of(crossings.values()).items():
        for visit in history.visits:
            state.visits.append(
                {
                    "device_id": pair.device_id,
                    "geofence_tag": pair.fence.tag,
                    "geofence_external_id": pair.fence.external_id,
                    "fence_id": fence_id(pair.fence),
                    "entered_at": iso(visit.entered_at),
                    "exited_at": iso(visit.exited_at) if visit.exited_at else None,
                    "dwell_seconds": visit.dwell_seconds,
                    "entered_event_id": visit.entered_event_id,
                    "exited_event_id": visit.exited_event_id,
                    "exit_missed": visit.exit_missed,
                    "open": visit.is_open,
                    "last_seen_at": iso(visit.last_seen_at) if visit.last_seen_at else None,
                    "app_dwell_seconds": None,
                    "restated": rng.random() < 0.1,
                    "crossings": rng.choice([1, 1, 1, 2, 3]),
                    "usual_dwell_seconds": 1800.0,
                }
                | contradicted(contradicting.get((pair, visit.entered_event_id)))
            )
    state.there = [visit for visit in state.visits if visit["open"]]
    state.fences = [
        {
            "fence_id": fence_id(fence),
            "tag": fence.tag,
            "external_id": fence.external_id,
            "kind": fence.tag,
            "name": fence.external_id,
            "centre": [sum(p[0] for p in at) / len(at), sum(p[1] for p in at) / len(at)],
            "radius_m": 120,
            "polygon": None,
            "source": "events",
            "samples": len(at),
            "there": sum(
                v["fence_id"] == fence_id(fence) and not v["contradicted_by_event_id"] for v in state.there
            ),
        }
        for fence, at in places.items()
    ]
    for device, way in ways.items():
        way.sort()
        (t0, x0, y0), (t1, x1, y1) = way[-2:]
        km = 111.2 * math.hypot((x1 - x0) * math.cos(math.radians(y1)), y1 - y0)
        inside = [
            visit["fence_id"]
            for visit in state.there
            if visit["device_id"] == device and not visit["contradicted_by_event_id"]
        ]
        state.trucks.append(
            truck(
                device,
                (x1, y1),
                heading=math.degrees(math.atan2((x1 - x0) * 0.6, y1 - y0)) % 360 if km > 0.1 else None,
                at=t1,
                speed_kmh=round(km / max(1e-6, (t1 - t0).total_seconds() / 3600), 1) if km > 0.1 else None,
                inside=inside,
                silence="at a place, where phones send few events"
                if inside
                else "probably no network, or the phone is off (the truck was moving)"
                if km > 0.1
                else "probably parked, or the phone is off (the truck was stationary)",
            )
        )
    begins = plan.begins_at
    state.replay = {
        "from": iso(begins),
        "to": iso(now()),
        "events": len(state.good),
        "objects": len(sent),
        "truncated": False,
        "trucks": [
            {
                "device_id": device,
                "t": [round((at - begins).total_seconds() * 1000) for at, _, _ in way],
                "lon": [lon for _, lon, _ in way],
                "lat": [lat for _, _, lat in way],
            }
            for device, way in ways.items()
        ],
        "visits": state.visits,
        "crossings": [],
    }
    wave = [max(0, round(30 + 14 * math.sin(i / 5) + rng.gauss(0, 5))) for i in range(60)]
    crossing_wave = [n // 4 for n in wave]
    state.pipeline = pipeline(
        {
            "accepted": wave,
            "rejected": [int(rng.random() < 0.3) for _ in wave],
            "archived": wave,
            "published": crossing_wave,
            "redriven": [0] * 60,
            "consumed": crossing_wave,
            "set_aside": [0] * 60,
            "loaded": wave,
            "marts": [0] * 40 + [sum(wave[:40])] + [0] * 19,
        }
    )
    state.days = [
        {
            "date": f"{now() - timedelta(days=13 - n):%Y-%m-%d}",
            "events": 1500 + rng.randint(0, 600),
            "visits": 100 + rng.randint(0, 40),
            "collections": 80 + rng.randint(0, 30),
            "litres": 180_000.0 + rng.randint(0, 60_000),
            "kilometres": 700.0 + rng.randint(0, 200),
            "dwell_seconds": 90_000.0 + rng.randint(0, 20_000),
            "trucks": trucks,
            "farms": 39,
        }
        for n in range(14)
    ]
    return state


MAX_VISITS = 5000
"""The maximum number of visits that the console's server returns; the earliest are left out."""


def crowd(trucks: int) -> State:
    """Return the state after a morning with this number of trucks. All trucks beyond the first 200 are copies of
    those 200 at other positions.
    """
    if not trucks:
        return empty()
    state = morning(min(trucks, 200))
    made, visits, there = list(state.trucks), list(state.visits), list(state.there)
    for n in range(1, math.ceil(trucks / 200)):
        for each in made[: trucks - len(state.trucks)]:
            lon, lat = each["position"]
            beside = [lon + 0.011 * (n % 3) - 0.01, lat + 0.007 * (n // 3) - 0.01]
            state.trucks.append(each | {"device_id": f"{each['device_id']}-{n}", "position": beside})
        state.visits += [each | {"device_id": f"{each['device_id']}-{n}"} for each in visits]
        state.there += [each | {"device_id": f"{each['device_id']}-{n}"} for each in there]
    state.visits = state.visits[-MAX_VISITS:]
    return state


def contradicted(by: GeofenceEvent | None) -> Json:
    return {
        "contradicted_by_event_id": by and by.event_id,
        "exit_inferred_at": by and iso(by.occurred_at),
        "seen_at_fence_id": by and fence_id(by.fence),
    }


def truck(device: str, position: tuple[float, float], at: datetime | None = None, **known: object) -> Json:
    at = at or now()
    return {
        "device_id": device,
        "position": list(position),
        "heading": None,
        "speed_kmh": None,
        "at": iso(at),
        "received_at": iso(at),
        "type": "user.updated_trip",
        "accuracy_m": 8.0,
        "inside": [],
        "heard_at": iso(at),
        "last_type": "user.updated_trip",
        "silence": "probably no network, or the phone is off (the truck was moving)",
    } | known


def visit(device: str, fence: str, entered_at: datetime, **known: object) -> Json:
    tag, _, name = fence.partition("#")
    return (
        {
            "device_id": device,
            "geofence_tag": tag,
            "geofence_external_id": name,
            "fence_id": fence,
            "entered_at": iso(entered_at),
            "exited_at": None,
            "dwell_seconds": None,
            "entered_event_id": f"{device}-enter",
            "exited_event_id": None,
            "exit_missed": False,
            "open": True,
            "last_seen_at": None,
            "app_dwell_seconds": None,
            "restated": False,
            "crossings": None,
            "usual_dwell_seconds": None,
        }
        | contradicted(None)
        | known
    )


def ring_of_trucks(n: int, tick: int) -> list[Json]:
    """Return `n` trucks that circle around a point near Leeuwarden, at their positions after `tick` steps."""
    made = []
    for i in range(n):
        angle = i * 0.7 + tick * 0.01 * (1 + i % 5)
        radius = 0.04 + 0.2 * (i % 23) / 23
        at = (5.79 + radius * 1.6 * math.cos(angle), 53.1 + radius * math.sin(angle))
        made.append(truck(f"truck-{i + 1:03d}", at, heading=(-math.degrees(angle)) % 360, speed_kmh=48.0))
    return made


class Feed:
    """The fake server, which runs in its own thread and responds with the data in `state`."""

    def __init__(self, state: State, port: int = 0) -> None:
        self.state = state
        self.url = ""
        self.refusing: dict[str, tuple[int, str]] = {}
        self.delays: dict[str, float] = {}
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._n = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Feed":
        self._thread.start()
        assert self._ready.wait(10), "the fake server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def say(self, name: str, data: Json) -> None:
        """Send a message to every connected browser."""
        self._loop.call_soon_threadsafe(self._put, self._message(name, data))

    def refuse(self, path: str, status: int = 503, detail: str = "", source: str | None = None) -> None:
        """Respond to requests for this path with an error until `allow` is called."""
        body = {
            "type": "about:blank",
            "title": "Refused",
            "status": status,
            "detail": detail,
            "source": source,
        }
        self.refusing[path] = (status, json.dumps(body))

    def allow(self, path: str) -> None:
        self.refusing.pop(path, None)

    def delay(self, path: str, seconds: float) -> None:
        """From now on, wait before responding to requests for this path."""
        self.delays[path] = seconds

    def cut(self) -> None:
        """Close every event stream, as if the server had been killed."""
        self._loop.call_soon_threadsafe(self._put, None)

    def source(self, name: str, state: str, reason: str | None = None, cause: str = "other") -> None:
        for each in self.state.sources:
            if each["name"] == name:
                values = {"state": state, "reason": reason, "since": iso(now())}
                each.update(values, cause=cause if state == "down" else None)
        self.say("sources", {"sources": self.state.sources})

    def add_good(self, event: Json) -> None:
        self._tell([self.keep_good(event)], [])

    def add_bad(self, event: Json, raw: str = "") -> None:
        self._tell([], [self.keep_bad(event, raw)])

    def keep_good(self, event: Json) -> Json:
        """Add an accepted event without notifying the browsers; return the event's list entry."""
        return self._keep(self.state.good, "good", event)

    def keep_bad(self, event: Json, raw: str = "") -> Json:
        """Add a rejected event without notifying the browsers; return the event's list entry."""
        return self._keep(self.state.bad, "bad", event, raw)

    def _tell(self, good: list[Json], bad: list[Json]) -> None:
        self.say("events", {"good": good, "bad": bad, "counted": self.state.counted, "left_out": 0})

    def _keep(self, held: list[Json], kind: str, event: Json, raw: str = "") -> Json:
        seq = max(self.state.details, default=0) + 1
        whole = {
            "seq": seq,
            "kind": kind,
            "event_id": f"event-{seq}",
            "type": "user.updated_trip",
            "device_id": "truck-x",
            "at": iso(now()),
            "received_at": iso(now()),
            "key": f"events/x{seq}.ndjson.gz",
            "line": 1,
            "size": 10,
        } | event
        held.insert(0, whole)
        self.state.details[seq] = whole | {
            "raw": raw or json.dumps(event),
            "stored": raw,
            "raw_truncated": False,
            "s3_uri": f"s3://milkrun-local-archive/{whole['key']}",
            "sql": "SELECT 1",
        }
        return whole

    # --- the server

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self._app(), handle_signals=False, shutdown_timeout=0.2)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        self._loop.run_until_complete(site.start())
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._ready.set()
        self._loop.run_forever()
        self._put(None)
        self._loop.run_until_complete(runner.cleanup())

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded])
        state = self.state
        app.router.add_get("/api/stream", self._stream)
        app.router.add_get("/api/events", self._events)
        app.router.add_get("/api/events/{seq}", self._event)
        app.router.add_get("/api/event", self._event_by)
        app.router.add_get("/api/search", self._search)
        app.router.add_get("/api/places", self._places)
        app.router.add_get("/api/visits.csv", self._csv)
        app.router.add_get("/api/report", self._report)
        app.router.add_get("/api/where", self._where)
        app.router.add_get("/api/visits", self._visits)
        app.router.add_get("/api/trucks/{device}/trail", self._trail)
        app.router.add_get("/api/replay/range", self._range)
        app.router.add_post("/api/reconcile", self._reconcile)
        for path, answer in {
            "/api/replay": lambda: state.replay,
            "/api/daily": lambda: {
                "farms": [],
                "trucks": [],
                "days": state.days,
                "built": bool(state.days),
                "from": state.daily_from,
                "cut": state.daily_cut,
            },
        }.items():
            app.router.add_get(path, self._answering(answer))
        app.router.add_static("/assets", STATIC / "assets")
        app.router.add_get("/favicon.svg", self._file("favicon.svg"))
        app.router.add_get("/{view:.*}", self._file("index.html"))
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in self.refusing:
            status, text = self.refusing[request.path]
            return web.Response(status=status, text=text, content_type="application/problem+json")
        await asyncio.sleep(self.delays.get(request.path, 0))
        response: web.StreamResponse = await handler(request)
        if not response.prepared:
            response.headers.update(HEADERS | {"Content-Security-Policy": policy(None)})
        return response

    def _answering(self, answer: Callable[[], object]) -> Handler:
        async def answering(_: web.Request) -> web.Response:
            return web.json_response(answer())

        return answering

    def _file(self, name: str) -> Handler:
        async def answering(_: web.Request) -> web.FileResponse:
            return web.FileResponse(STATIC / name)

        return answering

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        mine: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._streams.add(mine)
        await response.prepare(request)
        try:
            await response.write(b"retry: 300\n\n" + self._message("snapshot", self.state.snapshot()))
            while (message := await mine.get()) is not None:
                await response.write(message)
        except ConnectionError:
            pass
        finally:
            self._streams.discard(mine)
        return response

    def _message(self, name: str, data: Json) -> bytes:
        self._n += 1
        return f"id: feed-{self._n}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()

    def _put(self, message: bytes | None) -> None:
        for stream in self._streams:
            stream.put_nowait(message)

    async def _events(self, request: web.Request) -> web.Response:
        asked = request.query
        kind = asked.get("kind", "all")
        both = {"good": self.state.good, "bad": self.state.bad}
        events: Iterable[Json] = both.get(kind, self.state.good + self.state.bad)
        before = int(asked.get("before", 1 << 60))
        found = [
            event
            for event in sorted(events, key=lambda event: -event["seq"])
            if event["seq"] < before
            and ("type" not in asked or event["type"] == asked["type"])
            and ("device" not in asked or event["device_id"] == asked["device"])
            and ("code" not in asked or asked["code"] in event.get("codes", ()))
            and (
                "q" not in asked or asked["q"] in f"{event['event_id']} {event['device_id']} {event['type']}"
            )
        ]
        limit = int(asked.get("limit", 100))
        page = found[:limit]
        return web.json_response(
            {
                "events": page,
                "next": str(page[-1]["seq"]) if len(found) > limit else None,
                "types": sorted({event["type"] for event in self.state.good if event["type"]}),
                "codes": sorted({code for event in self.state.bad for code in event["codes"]}),
                "held": self.state.counted,
                "counted": self.state.counted,
            }
        )

    async def _event(self, request: web.Request) -> web.Response:
        found = self.state.details.get(int(request.match_info["seq"]))
        if not found:
            return web.json_response(
                {"detail": "This event is no longer in memory.", "status": 404}, status=404
            )
        return web.json_response(found)

    async def _event_by(self, request: web.Request) -> web.Response:
        """Respond with an event found by id or by object key and line, even if the event lists no longer
        contain it.
        """
        asked = request.query
        for found in sorted(self.state.details.values(), key=lambda event: -event["seq"]):
            by_id = found["event_id"] == asked.get("event_id")
            by_id &= asked.get("device_id", found["device_id"]) == found["device_id"]
            by_place = "key" in asked and (found["key"], str(found["line"])) == (
                asked["key"],
                asked.get("line"),
            )
            if by_id or by_place:
                return web.json_response(found)
        return web.json_response(
            {"detail": "No event with this id or key was found.", "status": 404}, status=404
        )

    async def _search(self, request: web.Request) -> web.Response:
        wanted = request.query.get("q", "").strip().casefold()
        state = self.state

        def like(text: str | None) -> bool:
            return bool(wanted) and wanted in (text or "").casefold()

        return web.json_response(
            {
                "trucks": [each["device_id"] for each in state.trucks if like(each["device_id"])][:8],
                "places": [
                    {name: each[name] for name in ("fence_id", "name", "tag")}
                    for each in state.fences
                    if like(each["name"])
                ][:8],
                "events": [
                    {name: each[name] for name in ("event_id", "type", "device_id", "kind", "key", "line")}
                    for each in [*state.good, *state.bad]
                    if like(each["event_id"])
                ][:8],
                "objects": sorted({each["key"] for each in state.good if like(each["key"])})[:8],
                "trace": request.query.get("q", "").strip() or None,
                "searched": "trucks, places, and the latest events by id and object key",
            }
        )

    async def _places(self, _: web.Request) -> web.Response:
        found = []
        for place in self.state.fences:
            visits = [each for each in self.state.visits if each["fence_id"] == place["fence_id"]]
            last = max(visits, key=lambda each: str(each["entered_at"]), default=None)
            found.append(
                {name: place[name] for name in ("fence_id", "tag", "external_id", "kind", "name", "there")}
                | {
                    "visits_today": len(visits),
                    "last_device_id": last and last["device_id"],
                    "last_entered_at": last and last["entered_at"],
                    "last_exited_at": last and last["exited_at"],
                    "usual_dwell_seconds": 1800.0,
                }
            )
        return web.json_response({"places": found})

    async def _csv(self, _: web.Request) -> web.Response:
        lines = ["device_id,entered_at", *(f"{v['device_id']},{v['entered_at']}" for v in self.state.visits)]
        headers = {"Content-Disposition": 'attachment; filename="visits.csv"'}
        return web.Response(text="\r\n".join(lines), content_type="text/csv", headers=headers)

    async def _report(self, request: web.Request) -> web.Response:
        headers = {"Content-Disposition": f'attachment; filename="report.{request.query["format"]}"'}
        return web.Response(text=request.query["day"], headers=headers)

    async def _where(self, request: web.Request) -> web.Response:
        at = now()
        steps = [
            {
                "what": what,
                "at": iso(at),
                "lag_s": n * 0.4,
                "detail": {"key": "events/x.ndjson.gz", "line": 3},
            }
            for n, what in enumerate(("received", "archived", "published", "consumed", "loaded"))
        ]
        return web.json_response(
            {
                "what": "event",
                "steps": steps,
                "searched": ["RAW"],
                "found": True,
                "s3_uris": ["s3://milkrun-local-archive/events/x.ndjson.gz"],
                "sql": ["SELECT 1"],
            }
        )

    async def _visits(self, request: web.Request) -> web.Response:
        asked = request.query
        visits = [
            visit
            for visit in self.state.visits
            if visit["device_id"] == asked.get("device_id", visit["device_id"])
            and visit["fence_id"] == asked.get("fence_id", visit["fence_id"])
            and asked.get("from", "") <= visit["entered_at"] <= asked.get("to", "9")
        ]
        missing = [
            f"{each['name']} has been down since {each['since']}: {each['reason']}"
            for each in self.state.sources
            if each["state"] == "down"
        ]
        return web.json_response(
            {
                "visits": visits,
                "from": asked.get("from", ""),
                "to": iso(now()),
                "source": ["bus"] if missing else ["bus", "marts"],
                "missing": missing,
                "more": 0,
            }
        )

    async def _trail(self, request: web.Request) -> web.Response:
        device = request.match_info["device"]
        for each in self.state.replay.get("trucks", ()):
            if each["device_id"] == device:
                begins = datetime.fromisoformat(self.state.replay["from"]).timestamp() * 1000
                points = [
                    [begins + t, lon, lat]
                    for t, lon, lat in zip(each["t"], each["lon"], each["lat"], strict=True)
                ]
                return web.json_response({"device_id": device, "points": points})
        return web.json_response({"device_id": device, "points": []})

    async def _range(self, request: web.Request) -> web.Response:
        played = self.state.replay
        suggested = {"from": played["from"], "to": played["to"]} if played else None
        return web.json_response({"days": [f"{now():%Y-%m-%d}"] if played else [], "suggested": suggested})

    async def _reconcile(self, request: web.Request) -> web.Response:
        return web.json_response({"state": "running"}, status=202)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=6320)
    parser.add_argument("--trucks", type=int, default=12)
    given = parser.parse_args()
    with Feed(morning(given.trucks), given.port) as feed, suppress(KeyboardInterrupt):
        print(f"The fake console is at {feed.url}. Press Ctrl-C to stop it.")
        tick = 0
        while True:
            threading.Event().wait(1)
            tick += 1
            feed.say("trucks", {"trucks": feed.state.trucks})


if __name__ == "__main__":
    main()
