"""Send a morning of collection rounds through the running stack, and check the number of events in every store."""

import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.progress import Progress, TaskID
from rich.table import Table as Grid

from aws.table import Table
from cli.refusal import Refusal
from consumer.visits import Pair
from ops import read_stores, terminal
from ops.build_marts import build_marts
from ops.percentile import percentile
from ops.polling import until
from ops.post_to_endpoint import lacks_receipt
from ops.read_stores import Stay
from ops.stage_outputs import Outputs, environment_of
from snowpipe.warehouse import Warehouse
from tools.fleet import phones
from tools.fleet.client import Client, send
from tools.fleet.event_file import judged, posts_of_file, read_lines
from tools.fleet.ledger import Ledger, Place, Truth
from tools.fleet.live import LiveFleet, drive
from tools.fleet.phones import Post
from tools.fleet.row_latency import Watch
from tools.fleet.shared_options import EventsFile, Farms, Seed, Trucks, refuse_with_a_file
from tools.fleet.traffic_parameters import DEFAULT_FARMS, DEFAULT_TRUCKS, Plan, new_run_id
from tools.stack import memory
from tools.stack.cli import AuthOption, ensure_up
from tools.stack.stack import Stack

# LocalStack serves at most 10 to 15 requests per second, however many are concurrent.
CONCURRENCY = 4
# A step fails if it is not complete within this time.
TIMEOUT_S = 60.0
VISITS_TIMEOUT_S = 5.0
# How long a request is retried; a local stack that does not answer within this time is down.
REQUEST_TIMEOUT_S = 20.0
PAIRS_PER_LOOK = 40


@dataclass(frozen=True, slots=True)
class Line:
    """One check of the demo. `equal` may require that the ids match, not only the numbers."""

    name: str
    expected: int
    found: int
    equal: bool
    note: str = ""


def command(
    context: typer.Context,
    *,
    events: EventsFile = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Instead of a morning with checks, send live traffic for the map until Ctrl-C."
        ),
    ] = False,
    seed: Seed = 1,
    trucks: Trucks = DEFAULT_TRUCKS,
    farms: Farms = DEFAULT_FARMS,
    auth: AuthOption = None,
    stage: terminal.Stage = "local",
    yes: terminal.Yes = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Start the local stack, send a morning of sample traffic (or a file), and check the counts in all stores.

    Exit code 1: a check failed. With --stage, the stage must already be deployed; the command asks for
    confirmation before it sends sample traffic there.
    """
    if live and events:
        raise typer.BadParameter("use either --live or --events, not both")
    if events:
        refuse_with_a_file(context, "seed", "trucks", "farms")
    if auth and stage != "local":
        raise typer.BadParameter(
            "--auth changes only the local stack; a deployed stage has the parameter `identity` (docs/threat-model.md)"
        )
    if not events:
        terminal.confirm_sample_traffic(stage, yes)
    if stage == "local":
        ensure_up(context, auth)
    outputs = terminal.outputs_of(context, stage)
    began = time.monotonic()
    if live:
        _drive(outputs, Plan(new_run_id(), datetime.now(UTC), seed=seed, trucks=trucks, farms=farms), as_json)
        return
    plan = Plan(new_run_id(), datetime.now(UTC) - timedelta(hours=8), seed=seed, trucks=trucks, farms=farms)
    with terminal.progress() as bars, tempfile.TemporaryDirectory(prefix="milkrun-demo-") as folder:
        if events:
            kinds = read_stores.geofence_kinds(outputs, stage)
            posts, total = posts_of_file(events, judge=partial(judged, kinds=kinds)), _lines_in(events, bars)
        else:
            plan, total = phones.ended_by(plan, datetime.now(UTC))
            posts = phones.posts(plan)
        rule = read_stores.rule(outputs, stage)
        with Ledger(Path(folder) / "ledger.sqlite", rule=rule) as ledger:
            demo = Demo(outputs, ledger, bars)
            lines = demo.run(posts, total, lambda: build_marts(environment_of(stage, context.obj)))
            visits = demo.some_visits(10)
    facts = {
        "run": str(events) if events else f"{plan.run}, seed {seed}",
        "rows_queryable_after_s": {
            f"p{p}": round(percentile(demo.latencies, p), 2) for p in (50, 95) if demo.latencies
        },
        "requests": demo.requests,
        **({"memory_of_the_stack_mib": stack_memory_mib(context.obj)} if stage == "local" else {}),
        "elapsed_s": round(time.monotonic() - began, 1),
    }
    if as_json:
        rows = [{"name": x.name, "expected": x.expected, "found": x.found, "equal": x.equal} for x in lines]
        terminal.print_json({"lines": rows, "visits": visits, **facts})
    else:
        _print(lines, visits, facts, outputs)
    if not all(line.equal for line in lines):
        raise typer.Exit(1)


class Demo:
    """One run of the demo against one stage. `latencies` contains, for each row that was loaded after its POST,
    the seconds from the POST until the row could be queried.
    """

    def __init__(self, outputs: Outputs, ledger: Ledger, bars: Progress) -> None:
        self._outputs = outputs
        self._ledger = ledger
        self._bars = bars
        self._s3 = outputs.aws("s3")
        self._dynamodb = outputs.aws("dynamodb")
        self.latencies: list[float] = []
        self.requests = 0

    def run(self, posts: Iterable[Post], total: int, build: Callable[[], object]) -> list[Line]:
        began_at = datetime.now(UTC)
        with Watch(self._outputs.warehouse, self._outputs.database) as watch:
            self._send(posts, total, watch)
            self._find_archived()
            self._find_published(began_at)
            self._find_consumed()
            self._await_loaded(watch)
            self.latencies = watch.latencies
        with self._outputs.warehouse() as warehouse:
            return self._check(warehouse, build)

    def _send(self, posts: Iterable[Post], total: int, watch: Watch) -> None:
        client = Client.of(self._outputs, connections=CONCURRENCY, timeout_s=REQUEST_TIMEOUT_S)
        task = self._bars.add_task("sent", total=total)
        for delivery in send(posts, client, concurrency=CONCURRENCY):
            self.requests += 1
            if watch.fault:
                raise watch.fault
            if delivery.fate == "kept":
                said = f"status {delivery.status}" if delivery.status else "no response"
                if delivery.status and lacks_receipt(delivery.status, delivery.answer):
                    said += " without a receipt"
                raise Refusal(
                    f"A request to {self._outputs.endpoint} failed for {REQUEST_TIMEOUT_S:g} s ({said}). "
                    "Run: milkrun status"
                )
            for key in self._ledger.add(delivery):
                watch.expect(key, delivery.posted_at)
            self._bars.advance(task, len(delivery.post.events))

    def _find_archived(self) -> None:
        """Read every object in `events/` that a response named, and mark the object's events as archived."""
        keys = self._ledger.keys("events/")
        task = self._bars.add_task("archived", total=self._ledger.count("accepted"))
        with ThreadPoolExecutor(CONCURRENCY) as readers:
            for lines in readers.map(
                lambda key: read_stores.archived_lines(self._s3, self._outputs.bucket, key), keys
            ):
                self._ledger.mark("archived", map(read_stores.event_id_of, lines))
                self._bars.advance(task, len(lines))

    def _find_published(self, began_at: datetime) -> None:
        """Read the stream repeatedly, from the beginning of this run, until every geofence event has been found
        or TIMEOUT_S seconds have passed; mark the events found as published.
        """
        kinesis = self._outputs.aws("kinesis")
        task = self._bars.add_task("published", total=self._ledger.count("crossing"))

        def read() -> int:
            # The stream's clock may be slightly behind ours.
            records = read_stores.stream_records(
                kinesis, self._outputs.stream, began_at - timedelta(seconds=5)
            )
            self._ledger.mark("published", read_stores.event_ids_among(records), only_ours=True)
            return self._show(task, "published")

        until(read, lambda n: n >= self._ledger.count("crossing"), timeout_s=TIMEOUT_S, every_s=1)

    def _find_consumed(self) -> None:
        """Read the visits table, a few (device, fence) pairs at a time, until it contains every geofence event that is
        recent enough for the consumer, or TIMEOUT_S seconds have passed; mark the events found as consumed.
        """
        task = self._bars.add_task("consumed", total=self._ledger.count("recent"))

        def read() -> int:
            # Read a few pairs at a time, because reading all pairs repeatedly would slow down the consumer.
            for ids in self._of_pairs(
                read_stores.consumed_event_ids, self._ledger.pairs_not_consumed(PAIRS_PER_LOOK)
            ):
                self._ledger.mark("consumed", ids, only_ours=True)
            return self._show(task, "consumed")

        until(read, lambda n: n >= self._ledger.count("recent"), timeout_s=TIMEOUT_S)

    def _of_pairs[T](
        self, read: Callable[[Table, Pair], Iterable[T]], pairs: Iterable[Pair]
    ) -> Iterator[list[T]]:
        """Yield the results of `read` for each pair, reading several pairs concurrently."""
        with ThreadPoolExecutor(CONCURRENCY) as readers:
            table = Table(self._outputs.access().client("dynamodb"), self._outputs.visits_table, readers)
            yield from readers.map(lambda pair: list(read(table, pair)), pairs)

    def _await_loaded(self, watch: Watch) -> None:
        task = self._bars.add_task("loaded", total=watch.pending + sum(watch.rows.values()))

        def look() -> int:
            self._bars.update(task, completed=sum(watch.rows.values()))
            return watch.pending

        until(look, lambda pending: pending == 0 or watch.fault is not None, timeout_s=TIMEOUT_S)
        if watch.fault:
            raise watch.fault

    def _check(self, warehouse: Warehouse, build: Callable[[], object]) -> list[Line]:
        ledger, database = self._ledger, self._outputs.database
        ledger.mark("loaded", read_stores.loaded_event_ids(warehouse, database, ledger.keys("events/")))
        task = self._bars.add_task("dbt build", total=None)
        build()
        self._bars.update(task, total=1, completed=1)
        ledger.mark(
            "staged", read_stores.staged_event_ids(warehouse, database, ledger.event_ids()), only_ours=True
        )
        duplicates = ledger.accepted_copies - ledger.count("accepted")
        codes = ", ".join(f"{code} {n}" for code, n in ledger.rejected_found.most_common())
        return [
            Line(
                "sent",
                ledger.sent,
                ledger.received + ledger.dropped_found,
                ledger.sent == ledger.received + ledger.dropped_found and not ledger.wrong_receipts,
            ),
            self._line("= accepted", "accepted", "answered"),
            _equal("+ duplicates", duplicates, ledger.answered_copies - ledger.count("answered")),
            Line(
                "+ rejected",
                ledger.rejected_truth.total(),
                ledger.rejected_found.total(),
                ledger.rejected_truth == ledger.rejected_found,
                codes,
            ),
            *self._dropped(),
            self._line("archived", "accepted", "archived"),
            self._line("published", "crossing", "published"),
            self._line("consumed", "recent", "consumed"),
            self._line("loaded", "accepted", "loaded"),
            _equal(
                "rejects loaded",
                ledger.distinct_rejects,
                read_stores.rejects_loaded(warehouse, database, ledger.keys("rejected/")),
            ),
            self._line("staged", "accepted", "staged"),
            self._visits("visits: DynamoDB", set(ledger.stays(recent=True)), self._table_stays),
            self._visits(
                "visits: mart",
                set(ledger.stays()),
                lambda: set(read_stores.mart_stays(warehouse, database, ledger.devices())),
            ),
        ]

    def _dropped(self) -> list[Line]:
        """Return a line about the events dropped after a 413 if there are or should be any; otherwise an
        empty list.
        """
        expected, found = self._ledger.dropped_truth, self._ledger.dropped_found
        note = "too large even for a request of their own, so the phone drops and reports them"
        return [replace(_equal("+ dropped", expected, found), note=note)] if expected or found else []

    def some_visits(self, n: int) -> list[dict[str, object]]:
        """Return up to `n` of the latest visits of this run's devices from the mart."""
        with self._outputs.warehouse() as warehouse:
            devices = self._ledger.devices()[: read_stores.NAMES_PER_QUERY]
            return (
                read_stores.latest_mart_visits(warehouse, self._outputs.database, devices, n)
                if devices
                else []
            )

    def _show(self, task: TaskID, place: Place) -> int:
        found = self._ledger.count(place)
        self._bars.update(task, completed=found)
        return found

    def _line(self, name: str, truth: Truth, place: Place) -> Line:
        differing = self._ledger.differences(truth, place)
        return Line(
            name,
            self._ledger.count(truth),
            self._ledger.count(place),
            not differing,
            f"differ: {', '.join(differing)}" if differing else "",
        )

    def _visits(self, name: str, expected: set[Stay], find: Callable[[], set[Stay]]) -> Line:
        """Compare every visit, not only the number of visits, and return the result as a line. Retry until a
        timeout, because the consumer writes the visits after the events.
        """
        found = until(find, lambda found: found == expected, timeout_s=VISITS_TIMEOUT_S)
        differing = sorted({stay.device_id for stay in found ^ expected})[:3]
        return Line(
            name,
            len(expected),
            len(found),
            found == expected,
            f"differ: {', '.join(differing)}" if differing else "",
        )

    def _table_stays(self) -> set[Stay]:
        return {
            stay for stays in self._of_pairs(read_stores.table_stays, self._ledger.pairs()) for stay in stays
        }


def _equal(name: str, expected: int, found: int) -> Line:
    return Line(name, expected, found, expected == found)


def _lines_in(file: Path, bars: Progress) -> int:
    task = bars.add_task("reading", total=None)
    total = sum(1 for _ in read_lines(file))
    bars.remove_task(task)
    if not total:
        raise Refusal(f"{file} contains no events")
    return total


def stack_memory_mib(environment: Mapping[str, str]) -> object:
    """Return the memory in MiB that the local stack's processes use, including the functions. Shared pages
    count once.
    """
    return memory.rows(Stack.of(environment).processes)[-1]["proportional_mib"]


def _drive(outputs: Outputs, plan: Plan, as_json: bool) -> None:
    """Send the events of moving trucks until Ctrl-C, then print the totals."""
    if outputs.console_url:
        terminal.note(f"Watch the trucks on the map: {outputs.console_url}/map  Press Ctrl-C to stop.")
    began = time.monotonic()
    client = Client.of(outputs, timeout_s=REQUEST_TIMEOUT_S)
    with terminal.progress() as bars, terminal.stopped_by_ctrl_c(client.stop) as stopped:
        task = bars.add_task("events sent", total=None)
        tally = drive(
            LiveFleet(plan), client, lambda tally: bars.update(task, completed=tally.events), stopped
        )
    terminal.show(tally.figures(time.monotonic() - began), as_json)


def _print(
    lines: list[Line], visits: list[dict[str, object]], facts: Mapping[str, object], outputs: Outputs
) -> None:
    terminal.show_rows(visits, False, title="The latest visits of this run, from MARTS.GEOFENCE_VISITS")
    table = Grid(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for heading in ("", "expected", "found", "", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for line in lines:
        tick = "[green]✓" if line.equal else "[red]✗"
        table.add_row(line.name, f"{line.expected:,}", f"{line.found:,}", tick, terminal.cell(line.note))
    terminal.out.print(table)
    terminal.show(facts, as_json=False)
    say = partial(terminal.out.print, markup=False)
    own = f"mine-{secrets.token_hex(4)}"
    say("\nPost an event of your own:")
    if outputs.token_issuer:
        say('  curl -H "authorization: Bearer $(./milkrun token me)" \\')
    key, endpoint = shlex.quote(f"x-api-key: {outputs.api_key}"), shlex.quote(outputs.endpoint)
    say(
        f"  {'  ' if outputs.token_issuer else 'curl '}-H {key} -H 'content-type: application/json' {endpoint} \\"
    )
    say(
        f"""    -d '{{"_id": "{own}", "type": "pickup.started", "deviceId": "me","""
        """ "createdAt": "'$(date -u +%FT%TZ)'"}'"""
    )
    say("Query the warehouse:")
    say(f'  ./milkrun warehouse query "SELECT * FROM {outputs.database}.RAW.EVENTS LIMIT 3"')
    say(f"Follow your event: ./milkrun trace {own}")
    if outputs.console_url:
        say(f"  or in the console: {outputs.console_url}/events?q={own}")
        say(f"Watch moving trucks: run ./milkrun demo --live and open {outputs.console_url}/map")
    if outputs.aws_endpoint_url:
        say("The local stack keeps running until `make down`.")
