"""The console's HTTP routes.

`docs/console.md` documents the routes for app developers' tests; the other routes serve the page.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, date, datetime

from anyio import to_thread
from botocore.exceptions import BotoCoreError, ClientError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cli.refusal import Refusal
from ops import daily_report, fleet_day
from ops.read_stores import geofence_kinds, rule
from ops.stage_outputs import Outputs
from snowpipe.archive import Archive
from snowpipe.warehouse import MissingObject
from tools.console import (
    place_list,
    recent_events,
    responses,
    search,
    sent_events,
    source_states,
    static_page,
    visit_list,
    visits_csv,
)
from tools.console.archive_poller import ArchivePoller, QueueListener
from tools.console.change_queue import ChangeQueue
from tools.console.known_visits import Known
from tools.console.page_updates import Hub
from tools.console.polling import Clients, Keys, Poller, Session, Shared
from tools.console.query_parameters import is_number, number, time_of
from tools.console.reconcile_poller import ReconcilePoller
from tools.console.replay_answers import ReplayAnswers
from tools.console.request_guard import RequestGuard
from tools.console.responses import Problem, json
from tools.console.state import ConsoleState
from tools.console.store_pollers import LogPoller, RedriveQueuePoller, VisitPoller, WarehousePoller
from tools.console.store_queries import MAX_VISITS, StoreQueries
from tools.console.update_intervals import Pace

# At most this many queries to Snowflake occupy a thread. Further queries wait without a thread, because the other
# stores and the page's files need threads, too (anyio has 40).
SNOWFLAKE_QUESTIONS = 8

# The request that is being answered.
_request: ContextVar[Request] = ContextVar("request")


class Console:
    """The console of one stage. The pollers start at the first request to an API route other than /api/health."""

    def __init__(
        self,
        outputs: Outputs,
        stage: str,
        state: ConsoleState,
        *,
        pace: Pace,
        live: ChangeQueue | None,
        is_local: bool,
    ) -> None:
        self.state = state
        self.hub = Hub(state)
        self._outputs = outputs
        self._stage = stage
        self._pace = pace
        self._queue = live
        self._is_local = is_local
        self._aws = Clients(outputs)
        self._session = Session(outputs, pace.give_up_after)
        self._zone = fleet_day.zone_of(outputs.time_zone)
        self._kinds = functools.cache(lambda: geofence_kinds(outputs, stage))
        self._rule = functools.cache(lambda: rule(outputs, stage))
        self._queries = StoreQueries(outputs, stage, self._aws, self._session, self._kinds)
        self._pollers: list[Poller] = []
        self._reconciling: ReconcilePoller | None = None
        self._shared: Shared | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._turns = asyncio.Semaphore(SNOWFLAKE_QUESTIONS)
        self._replays = ReplayAnswers(
            lambda: self._archive, self._kinds, self._rule, outputs.exclusive_tags, self._asked
        )

    # --- lifecycle

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._ticking = asyncio.create_task(self.hub.run())
        try:
            yield
        finally:
            self._ticking.cancel()
            if self._shared:
                self._shared.over.set()
                for poller in self._pollers:
                    poller.wake()
                if self._queue:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(to_thread.run_sync(self._queue.close), 8)

    def wake(self) -> None:
        """Start the pollers if they have not been started, and wake those that paused while no page was open."""
        was_watched = self.state.is_watched
        self.state.look()
        if self._shared is None:
            self._start()
        elif not was_watched:
            for poller in self._pollers:
                poller.wake()

    def _start(self) -> None:
        import threading

        shared = self._shared = Shared(
            self._outputs,
            self._stage,
            self.state,
            asyncio.get_running_loop(),
            self._aws,
            self._pace,
            Keys(),
            self._kinds,
            self._rule,
            self._outputs.exclusive_tags,
            threading.Event(),
        )
        reader = ArchivePoller(shared)
        self._reconciling = ReconcilePoller(shared)
        self._pollers = [
            reader,
            LogPoller(shared),
            VisitPoller(shared, reader),
            RedriveQueuePoller(shared),
            self._reconciling,
        ]
        if self._queue:
            self._pollers.append(QueueListener(shared, self._queue, reader))
        else:
            self.state.sources.say(
                "live", "off", "the console was started with --no-live-bus, so it polls every few seconds"
            )
        if self._pace.warehouse:
            self._pollers.append(WarehousePoller(shared, Session(self._outputs, self._pace.give_up_after)))
        else:
            self.state.sources.say("snowflake", "off", "read only on demand, because --warehouse-every is 0")
        for poller in self._pollers:
            poller.start()

    # --- the API that the page uses

    async def stream(self, _: Request) -> Response:
        return StreamingResponse(
            self.hub.listen(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def stage(self, _: Request) -> Response:
        return json(self.state.stage())

    async def sources(self, _: Request) -> Response:
        return json({"sources": self.state.sources.rows()})

    async def fences(self, _: Request) -> Response:
        return json({"fences": self.state.fences()})

    async def trucks(self, _: Request) -> Response:
        return json({"trucks": self.state.trucks(), "forgotten": self.state.fleet.forgotten})

    async def trail(self, request: Request) -> Response:
        device_id = request.path_params["device_id"]
        points = self.state.fleet.trail(device_id)
        if points is None:
            raise Problem(404, "No position of this device is known.")
        return json({"device_id": device_id, "points": points})

    async def there(self, _: Request) -> Response:
        return json({"visits": self.state.visits.there()})

    async def pipeline(self, _: Request) -> Response:
        return json(self.state.pipeline.row())

    async def reconcile(self, _: Request) -> Response:
        assert self._reconciling is not None
        if not self._reconciling.ask():
            raise Problem(409, "A comparison is already running.")
        return json({"state": "running"}, 202)

    async def events(self, request: Request) -> Response:
        asked = request.query_params
        kind = asked.get("kind", "all")
        if kind not in ("good", "bad", "all"):
            raise Problem(400, "`kind` must be good, bad or all.")
        limit = number(request, "limit", 100, 500)
        held = self.state.events
        found = held.matching(
            kind,
            limit=limit,
            before=number(request, "before", 0, 1 << 62) or None,
            type_=asked.get("type", ""),
            device=asked.get("device", ""),
            code=asked.get("code", ""),
            q=asked.get("q", ""),
        )
        return json(
            {
                "events": [recent_events.row(event) for event in found],
                "next": str(found[-1].seq) if found and len(found) == limit else None,
                "types": held.types(),
                "codes": held.codes(),
                "held": held.held(),
                "counted": held.counted,
            }
        )

    async def event(self, request: Request) -> Response:
        seq = request.path_params["seq"]
        event = self.state.events.find(int(seq)) if is_number(seq) else None
        if event is None:
            raise Problem(404, "No event with this number is in memory. Earlier events are in the archive.")
        return json(recent_events.whole(event, self._outputs.bucket, self._outputs.database))

    async def event_by(self, request: Request) -> Response:
        """Respond with one event from memory or from the archive, found by its id (and device, because devices may use
        the same id) or by its object key and line.
        """
        asked = request.query_params
        event_id, device_id, key = (asked.get(name, "") for name in ("event_id", "device_id", "key"))
        line = number(request, "line", 0, 1 << 31) or None
        if not event_id and not (key and line):
            raise Problem(400, "Specify `event_id`, or `key` and `line`.")
        held = self.state.events
        event = held.of_id(event_id, device_id) if not key else held.at(key, line) if line else None
        if event is None and not key:
            found = await self._asked("snowflake", lambda: self._queries.find_event(event_id, device_id))
            key, line = found or ("", None)
        if event is None and key:
            event = await self._asked("archive", lambda: self._queries.event_in(key, line, event_id or None))
        if event is None:
            raise Problem(404, "No event with this id or key was found.")
        return json(recent_events.whole(event, self._outputs.bucket, self._outputs.database))

    async def search(self, request: Request) -> Response:
        return json(search.search(self.state, request.query_params.get("q", "")))

    async def places(self, _: Request) -> Response:
        return json({"places": place_list.places(self.state, self._zone, datetime.now(UTC))})

    async def report(self, request: Request) -> Response:
        text = request.query_params.get("day", "")
        try:
            day = date.fromisoformat(text) if text else fleet_day.day_of(datetime.now(UTC), self._zone)
            fleet_day.bounds(day, self._zone)
        except (ValueError, OverflowError):
            raise Problem(400, "`day` must be a date such as 2026-11-28.") from None
        form = request.query_params.get("format", "html")
        if form not in ("html", "csv"):
            raise Problem(400, "`format` must be html or csv.")
        made = await self._asked("snowflake", lambda: self._queries.report(day, self._zone))
        name = f"milkrun-{self._stage}-{day}"
        if form == "csv":
            return responses.download(daily_report.as_csv(made), f"{name}.csv", "text/csv; charset=utf-8")
        # Respond with a file, because the page's Content-Security-Policy would block the report's inline style.
        return responses.download(daily_report.as_html(made), f"{name}.html", "text/html; charset=utf-8")

    async def where(self, request: Request) -> Response:
        what = request.query_params.get("event_id") or request.query_params.get("key")
        if not what:
            raise Problem(400, "Specify `event_id` or `key`.")
        device_id = request.query_params.get("device_id", "")
        return json(await self._asked("snowflake", lambda: self._queries.where(what, device_id)))

    async def visits(self, request: Request) -> Response:
        wanted = visit_list.wanted_of(request, datetime.now(UTC), self.state.fleet.place_name)
        found = await visit_list.find(wanted, MAX_VISITS, self.state.visits, self._queries, self._asked)
        return json(visit_list.as_json(wanted, found, self.state.visits))

    async def visits_csv(self, request: Request) -> Response:
        """Respond with all visits that match the request as a CSV file, named after the first day of the time
        range in the fleet's time zone.

        If a store fails after the first part was sent, the response ends without its last chunk, so that
        browsers report a failed download.
        """
        wanted = visit_list.wanted_of(request, datetime.now(UTC), self.state.fleet.place_name)
        parts = visit_list.in_parts(wanted, self.state.visits, self._queries, self._asked)
        first = await anext(parts)

        async def text() -> AsyncIterator[str]:
            yield visits_csv.header(self._zone) + self._csv(first)
            async for some in parts:
                yield self._csv(some)

        name = f"visits-{fleet_day.day_of(wanted.start, self._zone)}.csv"
        return StreamingResponse(
            text(), media_type="text/csv; charset=utf-8", headers=responses.as_file(name)
        )

    def _csv(self, visits: list[Known]) -> str:
        return visits_csv.as_csv((self.state.visits.row(visit) for visit in visits), self._zone)

    async def daily(self, request: Request) -> Response:
        n = number(request, "days", 14, 366)
        return json(await self._asked("snowflake", lambda: self._queries.daily(n)))

    async def replay_range(self, _: Request) -> Response:
        return json(await self._replays.range(self.state.seen_from, self.state.seen_to))

    async def replay(self, request: Request) -> Response:
        found = await self._replays.read(time_of(request, "from"), time_of(request, "to"))
        return Response(found, media_type="application/json")

    # --- for tests of app developers

    async def totals(self, _: Request) -> Response:
        return json(self._totals())

    def _totals(self) -> dict[str, int]:
        counted = self.state.events.counted
        return {"total": sum(counted.values()), **counted}

    async def good(self, request: Request) -> Response:
        return json(await sent_events.good(self.state.events, request))

    async def bad(self, request: Request) -> Response:
        return json(await sent_events.bad(self.state.events, request))

    async def reset(self, _: Request) -> Response:
        if not self._is_local:
            raise Problem(403, "Only the console of the stage `local` can be reset.")
        self.state.reset()
        self.hub.flush()
        return json(self._totals())

    async def health(self, _: Request) -> Response:
        return json({"ok": True, "stage": self._stage})

    # --- assembly

    @property
    def _archive(self) -> Archive:
        return Archive(self._aws("s3"), self._outputs.bucket)

    async def _asked[T](self, source: str, question: Callable[[], T]) -> T:
        """Query a store in a thread, record whether the store can be read, and return the answer. Raises a
        Problem that names the store if the query fails, or if a table does not exist.

        While the warehouse's poller finds Snowflake unreachable, the query is not sent, because the page would wait for
        it until the query's deadline.
        """
        if source == "snowflake" and self._pace.warehouse and self.state.sources.is_unreachable(source):
            raise Problem(503, self.state.sources.why_down(source) or "", source)
        try:
            async with self._turns if source == "snowflake" else contextlib.nullcontext():
                if source == "snowflake" and await _request.get().is_disconnected():
                    raise Problem(503, "The client has abandoned this request.", source)
                answer = await to_thread.run_sync(question)
        except MissingObject as missing:  # Snowflake answered, so it is not down
            raise Problem(404, self.state.sources.without_secrets(str(missing)), source) from None
        except (Refusal, BotoCoreError, ClientError, OSError) as fault:
            reason = source_states.reason_of(fault)
            if source == "snowflake" and source_states.is_of_aws(fault):
                # A search for an event also reads the AWS stores.
                raise Problem(503, self.state.sources.without_secrets(reason), "AWS") from None
            self.state.sources.say(source, "down", reason, source_states.cause_of(fault))
            for poller in self._pollers:
                if poller.source == source:
                    poller.wake()  # the poller finds out when the store can be read again
            said = self.state.sources.why_down(source) or self.state.sources.without_secrets(reason)
            raise Problem(503, said, source) from None
        self.state.sources.say(source, "ok")
        return answer

    async def _only_post(self, _: Request) -> Response:
        raise Problem(405, "Use POST.")

    async def _unknown(self, _: Request) -> Response:
        raise Problem(404, "This path does not exist.")

    def _waking(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def awake(request: Request) -> Response:
            self.wake()
            _request.set(request)
            return await answer(request)

        return awake

    def app(self, ports: list[int], tiles: str | None = None) -> RequestGuard:
        gets = {
            "stream": self.stream,
            "stage": self.stage,
            "sources": self.sources,
            "fences": self.fences,
            "trucks": self.trucks,
            "trucks/{device_id:path}/trail": self.trail,
            "there": self.there,
            "pipeline": self.pipeline,
            "events": self.events,
            "events/{seq}": self.event,
            "event": self.event_by,
            "search": self.search,
            "places": self.places,
            "report": self.report,
            "visits.csv": self.visits_csv,
            "where": self.where,
            "visits": self.visits,
            "daily": self.daily,
            "replay/range": self.replay_range,
            "replay": self.replay,
            "all": self.totals,
            "good": self.good,
            "bad": self.bad,
        }
        posts = {"reconcile": self.reconcile, "reset": self.reset}
        routes = [
            Route("/api/health", self.health),
            *(Route(f"/api/{path}", self._waking(answer)) for path, answer in gets.items()),
            *(
                Route(f"/api/{path}", self._waking(answer), methods=["POST"])
                for path, answer in posts.items()
            ),
            *(Route(f"/api/{path}", self._only_post) for path in posts),
            Route("/api/{rest:path}", self._unknown, methods=["GET", "POST"]),
            Route("/{path:path}", static_page.page),
        ]
        starlette = Starlette(
            routes=routes,
            lifespan=self.lifespan,
            exception_handlers=responses.ON_ERRORS,
        )
        return RequestGuard(starlette, ports, tiles)
