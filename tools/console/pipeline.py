"""The state of every stage of the pipeline, and a one-sentence verdict on the whole pipeline."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypedDict

from cli.counts import count
from contract import logs
from ops.percentile import percentile
from tools.console import parse_object
from tools.console.event_rates import WINDOW_MINUTES, WINDOW_S, Meter

HOUR_S = 3600.0
type Condition = tuple[str, float | None, str | None]
"""The state of a stage, its lag in seconds, and a note."""
# The maximum number of log lines that are kept for the panel's percentiles.
MAX_LINES = 2000


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the pipeline. Events that have passed the stage `after` wait for this stage. This stage is stuck if
    an event waits for more than `max_wait_s` seconds.

    Delays of up to `slack_s` seconds are ignored, because the services' clocks differ and requests are logged
    when they end.
    """

    name: str
    title: str
    source: str
    after: str | None = None
    max_wait_s: float = 60.0
    slack_s: float = 3.0


STAGES = (
    Stage("accepted", "Accepted", "logs"),
    Stage("rejected", "Rejected", "logs"),
    Stage("archived", "Archived", "archive", "accepted", 30.0),
    Stage("published", "Published", "logs"),
    Stage("redriven", "Redriven", "logs"),
    Stage("consumed", "Consumed", "logs", "published", 60.0, 30.0),
    Stage("set_aside", "Quarantined", "logs"),
    Stage("loaded", "Loaded", "snowflake", "archived", 120.0),
    Stage("marts", "In the marts", "snowflake", "loaded"),
)
SOURCE_NAMES = {"logs": "the log", "archive": "S3", "snowflake": "Snowflake"}
# A shorter wait is normal.
USUAL_S = 10.0
MAX_UNARCHIVED = 10_000
LATENCY_EVERY_S = 5.0
# Longer than any pause between two reads of the queues while a page is open.
MAX_UNSEEN_S = 180.0


class StageRow(TypedDict):
    """A stage of the pipeline as sent to the page."""

    name: str
    title: str
    count: int
    total: int
    rate: float
    lag_s: float | None
    per_minute: list[int]
    last_at: str | None
    state: str
    note: str | None
    detail: str | None


@dataclass
class Reconciled:
    """The result of the latest comparison by the reconcile poller."""

    state: str = "never"
    equal: bool | None = None
    at: str | None = None
    seconds: float | None = None
    problem: str | None = None
    differences: int = 0
    found: Mapping[str, object] | None = None

    def row(self) -> dict[str, object]:
        nothing: Mapping[str, object] = {
            "from": None,
            "to": None,
            "differences": [],
            "more": 0,
            "in_flight": 0,
            "geofence_events": None,
        }
        return {
            "state": self.state,
            "equal": self.equal,
            "at": self.at,
            "seconds": self.seconds,
            "problem": self.problem,
            **(self.found or nothing),
        }


class Pipeline:
    """The known state of each stage of the pipeline. `why_unknown` returns why a source has no current data, or
    None if its data is current.

    `marts_max_wait_s` is None if dbt has no schedule. In that case, waiting for dbt is not a fault.
    """

    def __init__(
        self,
        why_unknown: Callable[[str], str | None],
        marts_max_wait_s: float | None,
        clock: Callable[[], float],
        stage: str = "local",
    ) -> None:
        self._option = "" if stage == "local" else f" --stage {stage}"
        # `milkrun logs` prints only the logs of the local stack.
        self._consumer_log = (
            "`milkrun logs consume`" if stage == "local" else f"the log of milkrun-{stage}-consume"
        )
        self._why_unknown = why_unknown
        self._marts_max_wait_s = marts_max_wait_s
        self._clock = clock
        self.meters = {stage.name: Meter() for stage in STAGES}
        self.reconciled = Reconciled()
        self.pipes: dict[str, dict[str, object]] = {}
        self.redrive_waiting: int | None = None
        self.dead_letters: int | None = None
        self._redrive_since: float | None = None
        self._queues_read_at = 0.0
        self.marts_built: bool | None = None
        # Waits for the warehouse are measured up to this time, because the warehouse is read rarely.
        self.warehouse_read_at: float | None = None
        self._stopped: dict[str, tuple[float, str]] = {}
        self._lines: deque[tuple[float, Mapping[str, object]]] = deque(maxlen=MAX_LINES)
        self._left_for_redrive = Meter()
        self._answered: dict[str, Meter] = {}
        self._rejected_by_code: dict[str, Meter] = {}
        # Object keys in receipts that have not been found in S3 yet, with the times of the receipts.
        self._unarchived: dict[str, float] = {}
        self._waiting_since: dict[str, float] = {}
        self._named_keys: dict[str, None] = {}
        self._accepted_again = Meter()
        self._latency_known: tuple[float, dict[str, object]] = (0.0, {})
        # True until the functions' logs have been read to their ends. Before that, lags would be wrong.
        self.partial = False

    # --- input

    def archived(self, key: str, at: float, lines: int) -> None:
        """Count the lines of a new object in `events/`."""
        self.meters["archived"].add(at, lines)
        self._unarchived.pop(key, None)

    def logged(self, at: float, line: Mapping[str, object], is_archived: Callable[[str], bool]) -> None:
        """Update the counts, lags, missing objects and stopped shards from a canonical line (`contract/logs.py`)."""
        meters = self.meters
        match line.get("event"):
            case logs.EVENTS_INGESTED:
                if line.get("status") in (202, 400):
                    meters["accepted"].add(at, _count(line, "accepted"))
                    meters["rejected"].add(at, _count(line, "rejected"))
                    meters["accepted"].lag_s = _seconds(line.get("total_ms"))
                meters["published"].add(at, _count(line, "published"))
                meters["published"].lag_s = _seconds(line.get("publish_ms")) or meters["published"].lag_s
                self._left_for_redrive.add(at, _count(line, "queued"))
                self._lines.append((at, line))
                self._answered.setdefault(str(line.get("status")), Meter()).add(at, 1)
                codes = line.get("rejected_by_code")
                if isinstance(codes, dict):
                    for code in codes:
                        self._rejected_by_code.setdefault(code, Meter()).add(at, _count(codes, code))
                key = line.get("object_key")
                if isinstance(key, str) and line.get("status") == 202:
                    self._stored(key, at, _count(line, "accepted"), is_archived(key))
            case logs.RECORDS_REDRIVEN:
                meters["redriven"].add(at, _count(line, "redriven"))
            case logs.RECORDS_SET_ASIDE:
                meters["set_aside"].add(at, _count(line, "set_aside"))
            case logs.RECORDS_CONSUMED:
                meters["consumed"].add(at, _count(line, "consumed"))
                meters["consumed"].touch(
                    at
                )  # a batch that contains only quarantined records is processed, too
                behind_s = line.get("behind_seconds")
                if isinstance(behind_s, int | float):
                    meters["consumed"].lag_s = max(0.0, float(behind_s))
                shard = str(line.get("shard_id"))
                if line.get("stopped_at"):
                    self._stopped.setdefault(shard, (at, str(line.get("failure", ""))[:200]))
                else:
                    self._stopped.pop(shard, None)

    def _stored(self, key: str, at: float, lines: int, is_archived: bool) -> None:
        if key in self._named_keys:
            self._accepted_again.add(at, lines)
        elif not is_archived:
            self._unarchived[key] = at
        self._named_keys[key] = None
        for known in (self._named_keys, self._unarchived):
            if len(known) > MAX_UNARCHIVED:
                del known[next(iter(known))]

    def queues(self, redrive: int, dead: int) -> None:
        self.redrive_waiting, self.dead_letters = redrive, dead
        now, unseen_s = self._clock(), self._clock() - self._queues_read_at
        self._queues_read_at = now
        if not redrive:
            self._redrive_since = None
        # While no page is open, the queues are not read, and may have drained meanwhile.
        elif self._redrive_since is None or unseen_s > MAX_UNSEEN_S:
            self._redrive_since = now

    # --- output

    def row(self) -> dict[str, object]:
        now = self._clock()
        stages = [self._stage(stage, now) for stage in STAGES]
        verdict, says, stuck_at = self._verdict(stages)
        return {
            "verdict": verdict,
            "says": says,
            "stuck_at": stuck_at,
            "stages": stages,
            "waiting": {
                "redrive_queue": self.redrive_waiting,
                "dead_letters": self.dead_letters,
                "pipes": self.pipes,
            },
            "latency": self._latency(now),
            "reconcile": self.reconciled.row(),
            "window": {
                "from": parse_object.written(datetime.fromtimestamp((now // 60 + 1) * 60 - WINDOW_S, UTC)),
                "minutes": WINDOW_MINUTES,
                "partial": self.partial,
            },
        }

    def _stage(self, stage: Stage, now: float) -> StageRow:
        meter = self.meters[stage.name]
        per_minute = meter.per_minute(now)
        state, lag, note = self._state(stage, meter, now, sum(per_minute))
        return {
            "name": stage.name,
            "title": stage.title,
            "count": sum(per_minute),
            "total": meter.total,
            "rate": meter.rate(now),
            "lag_s": None if lag is None else round(lag, 1),
            "per_minute": per_minute,
            "last_at": None
            if meter.last_at is None
            else parse_object.written(datetime.fromtimestamp(meter.last_at, UTC)),
            "state": state,
            "note": note,
            "detail": self._detail(stage),
        }

    def _detail(self, stage: Stage) -> str | None:
        """Return the error message of the stage's source or function; None if there is no error."""
        if stage.name == "consumed" and self._stopped:
            return min(self._stopped.values())[1]
        return self._why_unknown(stage.source)

    def _state(self, stage: Stage, meter: Meter, now: float, count: int) -> Condition:
        if note := self._unknown(stage):
            return "unknown", None, note
        if stage.source == "snowflake" and self.warehouse_read_at is not None:
            now = self.warehouse_read_at
        usual = "ok" if count else "idle"
        if special := self._of_its_own(stage, meter, now, usual):
            return special
        waits = self._waits(stage, meter)
        if waits is None or now - waits < USUAL_S:
            return usual, meter.lag_s, None
        max_wait_s = self._marts_max_wait_s if stage.name == "marts" else stage.max_wait_s
        if max_wait_s is None:
            return "waiting", now - waits, "waiting for the next dbt run"
        return "stuck" if now - waits > max_wait_s else "waiting", now - waits, None

    def _unknown(self, stage: Stage) -> str | None:
        """Return why the state of a stage is unknown; None if it is known."""
        if self._why_unknown(stage.source) or (
            stage.source == "snowflake" and self.warehouse_read_at is None
        ):
            return f"no data from {SOURCE_NAMES[stage.source]} (see “Sources”)"
        # The state of the stage “Redriven” depends mainly on the queues.
        if stage.source == "logs" and self.partial and stage.name != "redriven":
            return "the log of the last hour is still being read"
        return None

    def _of_its_own(self, stage: Stage, meter: Meter, now: float, usual: str) -> Condition | None:
        """Return the state of a stage if the stage's own data determines it; None if it depends on the
        previous stage.
        """
        condition: Condition | None = None
        match stage.name:
            case "redriven":
                condition = self._redrive(usual, meter)
            case "published":
                left = sum(self._left_for_redrive.per_minute(now))
                condition = (
                    usual,
                    meter.lag_s,
                    f"{count(left, 'event')} queued for redrive in the last hour" if left else None,
                )
            case "archived" if not self._unarchived:
                again = sum(self._accepted_again.per_minute(now))
                note = (
                    f"{count(again, 'event')} in repeated requests, which create no object" if again else None
                )
                condition = usual, meter.lag_s, note
            case "set_aside":
                condition = usual, None, f"see `milkrun quarantine{self._option}`" if usual == "ok" else None
            case "consumed" if self._stopped:
                at, _ = min(self._stopped.values())
                state = "stuck" if now - at > stage.max_wait_s else "waiting"
                condition = state, now - at, f"the consumer stopped at a record (see {self._consumer_log})"
            case "loaded":
                halted = [name for name, pipe in self.pipes.items() if pipe["state"] not in ("RUNNING", None)]
                if halted:
                    condition = "stuck", meter.lag_s, f"{', '.join(halted)}: {self.pipes[halted[0]]['state']}"
            case "marts" if self.marts_built is False:
                condition = "idle", None, "dbt has not run yet"
        return condition

    def _redrive(self, usual: str, meter: Meter) -> Condition:
        if self._why_unknown("queues"):
            return usual, meter.lag_s, None
        if self.dead_letters:
            return (
                "stuck",
                None,
                f"{count(self.dead_letters, 'dead letter')} (see `milkrun redrive{self._option}`)",
            )
        if not self.redrive_waiting or self._redrive_since is None:
            return usual, meter.lag_s, None
        waited = self._queues_read_at - self._redrive_since
        return (
            "stuck" if waited > 300 else "waiting",
            waited,
            f"{count(self.redrive_waiting, 'claim check')} waiting in the queue",
        )

    def _waits(self, stage: Stage, meter: Meter) -> float | None:
        """Return the time at which the oldest waiting event began to wait for this stage, in epoch seconds;
        None if no event is waiting.
        """
        if stage.after is None or self._why_unknown(_SOURCES[stage.after]):
            return None
        if stage.name == "archived":
            # Determined from the object keys, because a repeated request adds no object.
            return min(self._unarchived.values(), default=None)
        done_to = (meter.last_at or 0.0) + stage.slack_s
        # The previous stage forgets its counts after an hour, so the time of the oldest waiting event is stored here.
        since = self._waiting_since.get(stage.name, 0.0)
        if since <= done_to:
            since = self.meters[stage.after].first_after(done_to) or 0.0
        self._waiting_since[stage.name] = since
        return since or None

    def _verdict(self, stages: list[StageRow]) -> tuple[str, str, str | None]:
        by_state = Counter(stage["state"] for stage in stages)
        stuck = next((stage for stage in stages if stage["state"] == "stuck"), None)
        if stuck:
            since = "" if stuck["lag_s"] is None else f" for {_in_words(stuck['lag_s'])}"
            note = f": {stuck['note']}" if stuck["note"] else ""
            return "stuck", f"Stuck at “{stuck['title']}”{since}{note}.", stuck["name"]
        unknown = [stage["title"] for stage in stages if stage["state"] == "unknown"]
        if unknown:
            why = "The log of the last hour is still being read." if self.partial else "See “Sources”."
            return "unknown", f"State unknown: {', '.join(unknown)}. {why}", None
        reconciled = self.reconciled
        if reconciled.state == "done" and reconciled.equal is False:
            return "stuck", f"Reconcile found {count(reconciled.differences, 'difference')}.", "reconcile"
        waiting = [
            stage["title"]
            for stage in stages
            if stage["state"] == "waiting"
            and not (stage["name"] == "marts" and self._marts_max_wait_s is None)
        ]
        if waiting:
            return (
                "busy",
                f"Busy: events are waiting at {', '.join(waiting)}, so far within the limits.",
                None,
            )
        if by_state["idle"] == len(stages):
            return "idle", "No events in the last hour.", None
        return "healthy", "No accepted event is overdue.", None

    def _latency(self, now: float) -> dict[str, object]:
        at, known = self._latency_known
        if now - at >= LATENCY_EVERY_S:
            self._latency_known = at, known = now, self._latency_of(now)
        return known

    def _latency_of(self, now: float) -> dict[str, object]:
        lines = [line for at, line in self._lines if at > now - WINDOW_S]

        def at(name: str, percent: float) -> float | None:
            values = [value for line in lines if isinstance(value := line.get(name), int | float)]
            return percentile(values, percent) if values else None

        answered, by_code = (
            +Counter({name: sum(meter.per_minute(now)) for name, meter in meters.items()})
            for meters in (self._answered, self._rejected_by_code)
        )
        return {
            "store_ms_p50": at("store_ms", 50),
            "store_ms_p99": at("store_ms", 99),
            "publish_ms_p50": at("publish_ms", 50),
            "publish_ms_p99": at("publish_ms", 99),
            "lateness_s_p50": at("lateness_seconds", 50),
            "lateness_s_p99": at("lateness_seconds", 99),
            "answered": dict(sorted(answered.items())),
            "rejected_by_code": dict(by_code.most_common()),
        }


_SOURCES = {stage.name: stage.source for stage in STAGES}


def _count(line: Mapping[str, object], name: str) -> int:
    value = line.get(name)
    return value if isinstance(value, int) else 0


def _seconds(milliseconds: object) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int | float) else None


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < HOUR_S * 2 else f"{seconds / HOUR_S:.0f} h"
