"""Test the pipeline's status and the stage that it reports as stuck. The tests set the measurements and the clock."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import logs
from tools.console.event_rates import WINDOW_MINUTES, WINDOW_S, Meter
from tools.console.pipeline import Pipeline, Reconciled

BEGIN = 1_795_000_000.0


class Trial:
    """A pipeline whose clock the test sets, with a method for each stage that a request passes."""

    def __init__(self, marts_max_wait_s: float | None = None, stage: str = "local") -> None:
        self.now = BEGIN
        self.down: dict[str, str] = {}
        self.archived: set[str] = set()
        self.pipeline = Pipeline(self.down.get, marts_max_wait_s, lambda: self.now, stage)
        self.pipeline.pipes = {"EVENTS_PIPE": {"state": "RUNNING", "pending_files": 0}}
        self.pipeline.marts_built = True
        self.warehouse_read_at: float | None = None  # None: the warehouse is read for each row

    def ingest(self, key: str = "k", accepted: int = 10, published: int = 4, **more: object) -> None:
        line = {
            "event": logs.EVENTS_INGESTED,
            "status": 202,
            "accepted": accepted,
            "published": published,
            "object_key": key,
        }
        self.pipeline.logged(self.now, line | more, self.archived.__contains__)

    def archive(self, key: str = "k", lines: int = 10) -> None:
        self.archived.add(key)
        self.pipeline.archived(key, self.now, lines)

    def consume(self, consumed: int = 4, **more: object) -> None:
        line = {"event": logs.RECORDS_CONSUMED, "consumed": consumed, "behind_seconds": 1.0, "shard_id": "s0"}
        self.pipeline.logged(self.now, line | more, self.archived.__contains__)

    def load(self, n: int = 10) -> None:
        self.pipeline.meters["loaded"].put({int(self.now): n}, self.now)

    def build(self, n: int = 10) -> None:
        self.pipeline.meters["marts"].put({int(self.now): n}, self.now)

    def row(self) -> dict[str, Any]:
        self.pipeline.warehouse_read_at = self.warehouse_read_at or self.now
        return self.pipeline.row()

    def stage(self, name: str) -> dict[str, Any]:
        return next(stage for stage in self.row()["stages"] if stage["name"] == name)

    def verdict(self) -> tuple[str, str | None]:
        row = self.row()
        return row["verdict"], row["stuck_at"]


@pytest.fixture
def trial() -> Trial:
    return Trial()


def test_consumer_is_not_reported_as_stuck_while_its_log_is_still_being_read() -> None:
    trial = Trial()
    trial.consume()
    trial.now += 600
    trial.ingest()
    trial.archive()
    trial.load()
    trial.now += 300
    assert trial.stage("consumed")["state"] == "stuck"
    trial.pipeline.partial = True
    row = trial.row()
    assert (row["verdict"], row["stuck_at"]) == ("unknown", None)
    assert row["says"].endswith("Quarantined. The log of the last hour is still being read.")


def test_pipeline_status_is_idle_before_anything_is_received(trial):
    assert trial.verdict() == ("idle", None)


def test_request_is_counted_at_every_stage_that_it_passes_and_the_pipeline_is_healthy(trial):
    trial.ingest(rejected=2, rejected_by_code={"missing_id": 2}, store_ms=12.0)
    for step in (trial.archive, trial.consume, trial.load, trial.build):
        step()
    trial.now += 300
    assert trial.verdict() == ("healthy", None)
    counts = {stage["name"]: stage["count"] for stage in trial.pipeline.row()["stages"]}
    assert counts == {
        "accepted": 10,
        "rejected": 2,
        "archived": 10,
        "published": 4,
        "redriven": 0,
        "consumed": 4,
        "set_aside": 0,
        "loaded": 10,
        "marts": 10,
    }
    latency = trial.pipeline.row()["latency"]
    assert (latency["store_ms_p50"], latency["rejected_by_code"], latency["answered"]) == (
        12.0,
        {"missing_id": 2},
        {"202": 1},
    )


@pytest.mark.parametrize(
    ("done", "stuck_at", "max_wait_s"),
    [
        ([], "archived", 30),
        (["archive"], "consumed", 60),
        (["archive", "consume"], "loaded", 120),
    ],
)
def test_first_pipeline_stage_that_falls_behind_is_reported_as_stuck(trial, done, stuck_at, max_wait_s):
    trial.consume()  # of an earlier request, so that the stages consumed and loaded have been active before
    trial.load()
    trial.now += 60
    trial.ingest()
    for step in done:
        getattr(trial, step)()
    trial.now += max_wait_s / 2
    assert trial.verdict() == ("busy", None)
    assert trial.stage(stuck_at)["state"] == "waiting"
    trial.now += max_wait_s
    assert trial.verdict() == ("stuck", stuck_at)
    assert trial.stage(stuck_at)["lag_s"] == pytest.approx(1.5 * max_wait_s, abs=1)


def test_events_that_arrive_between_two_reads_of_the_warehouse_are_not_reported_as_stuck(trial):
    """On a deployed stage, the console reads Snowflake only every 5 minutes, but an event that waits to be loaded for
    more than 2 minutes counts as stuck.
    """
    trial.load()
    trial.warehouse_read_at = trial.now
    trial.now += 10
    for step in (trial.ingest, trial.archive, trial.consume):
        step()
    trial.now += 280
    assert trial.stage("loaded")["state"] == "ok"
    assert trial.verdict()[0] == "healthy"
    trial.warehouse_read_at = trial.now
    assert trial.verdict() == ("stuck", "loaded")


def test_loaded_and_marts_are_unknown_until_the_warehouse_has_been_read(trial):
    trial.ingest()
    trial.archive()
    trial.consume()
    trial.now += 1000
    row = trial.pipeline.row()
    assert (row["verdict"], row["stuck_at"]) == ("unknown", None)
    assert {stage["name"] for stage in row["stages"] if stage["state"] == "unknown"} == {"loaded", "marts"}


def test_responses_of_the_last_hour_are_counted_however_many_there_are(trial):
    for n in range(2500):
        trial.ingest(f"k{n}", rejected_by_code={"missing_id": 2})
    latency = trial.row()["latency"]
    assert (latency["answered"], latency["rejected_by_code"]) == ({"202": 2500}, {"missing_id": 5000})
    trial.now += WINDOW_S
    assert trial.row()["latency"]["answered"] == {}


def test_resent_request_does_not_count_as_waiting_for_the_archive(trial):
    trial.ingest()
    trial.archive()
    trial.now += 100
    trial.ingest()  # the same key: S3 already has the object and sends no notification
    trial.now += 100
    assert trial.stage("archived")["state"] == "ok"
    assert "10 events in repeated requests" in trial.stage("archived")["note"]


def test_stopped_shard_is_reported_with_its_failure_until_consumption_resumes(trial):
    trial.ingest()
    trial.archive()
    trial.load()
    trial.consume(0, stopped_at="496", failure="ClientError: throttled")
    trial.now += 90
    assert trial.verdict() == ("stuck", "consumed")
    stage = trial.stage("consumed")
    assert stage["note"] == "the consumer stopped at a record (see `milkrun logs consume`)"
    assert stage["detail"] == "ClientError: throttled"
    trial.consume()
    assert trial.stage("consumed")["state"] == "ok"


def test_notes_in_the_status_of_a_deployed_stage_name_the_stage():
    """Without --stage, a command that a note suggests would use the local stack."""
    trial = Trial(stage="prod")
    trial.pipeline.queues(0, 1)
    trial.consume(0, stopped_at="496", failure="throttled")
    trial.pipeline.meters["set_aside"].add(trial.now, 1)
    notes = {name: trial.stage(name)["note"] for name in ("redriven", "consumed", "set_aside")}
    assert notes == {
        "redriven": "1 dead letter (see `milkrun redrive --stage prod`)",
        "consumed": "the consumer stopped at a record (see the log of milkrun-prod-consume)",
        "set_aside": "see `milkrun quarantine --stage prod`",
    }


def test_redriven_is_stuck_if_there_are_dead_letters_or_the_redrive_queue_does_not_drain(trial):
    for _ in range(5):
        trial.pipeline.queues(3, 0)
        assert trial.verdict() == ("busy", None)
        trial.now += 75
    trial.pipeline.queues(3, 0)
    assert trial.verdict() == ("stuck", "redriven")
    trial.pipeline.queues(0, 0)
    assert trial.verdict() == ("idle", None)
    trial.pipeline.queues(0, 1)
    assert trial.verdict() == ("stuck", "redriven")


def test_time_without_reads_of_the_redrive_queue_does_not_count_as_waiting(trial):
    """While no page is open, the queues are not read. They may have drained and filled again meanwhile."""
    trial.pipeline.queues(3, 0)
    trial.now += 5 * 3600
    assert trial.verdict() == ("busy", None)
    trial.pipeline.queues(2, 0)
    assert (trial.verdict(), trial.stage("redriven")["lag_s"]) == (("busy", None), 0)


def test_paused_snowflake_pipe_is_reported_as_stuck_immediately(trial):
    trial.pipeline.pipes["EVENTS_PIPE"]["state"] = "PAUSED"
    assert trial.verdict() == ("stuck", "loaded")
    assert trial.stage("loaded")["note"] == "EVENTS_PIPE: PAUSED"


@pytest.mark.parametrize(("max_wait_s", "state"), [(None, "waiting"), (2.5 * 3600, "stuck")])
def test_rows_waiting_for_dbt_are_reported_as_stuck_only_if_a_dbt_schedule_is_configured(max_wait_s, state):
    trial = Trial(max_wait_s)
    trial.build()
    for _ in range(12):
        trial.now += 15 * 60
        trial.load()
        trial.row()
    assert trial.stage("marts")["state"] == state
    assert trial.stage("marts")["lag_s"] == 11 * 15 * 60
    assert trial.verdict()[0] == ("healthy" if max_wait_s is None else "stuck")


def test_only_the_stages_that_depend_on_an_unreachable_source_are_unknown(trial):
    trial.down["snowflake"] = "snowflake has been down since then: no route"
    states = {stage["name"]: stage["state"] for stage in trial.pipeline.row()["stages"]}
    assert {name for name, state in states.items() if state == "unknown"} == {"loaded", "marts"}
    assert trial.verdict()[0] == "unknown"


def test_differences_found_by_reconcile_make_the_verdict_stuck(trial):
    trial.ingest()
    for step in (trial.archive, trial.consume, trial.load, trial.build):
        step()
    trial.pipeline.reconciled = Reconciled("done", equal=False, differences=3)
    assert trial.verdict() == ("stuck", "reconcile")
    assert "3 differences" in trial.pipeline.row()["says"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 7200), st.integers(0, 50)), max_size=40))
def test_counts_per_minute_cover_exactly_the_last_hour(counts):
    meter, now = Meter(), BEGIN + 7200
    for at, n in counts:
        meter.add(BEGIN + at, n)
    minutes = meter.per_minute(now)
    first = (now // 60 - WINDOW_MINUTES + 1) * 60
    assert len(minutes) == WINDOW_MINUTES
    assert sum(minutes) == sum(n for at, n in counts if int(BEGIN + at) >= first)
    assert meter.total == sum(n for _, n in counts)


def test_newly_reported_counts_replace_the_earlier_counts_of_the_same_seconds():
    meter = Meter()
    meter.put({100: 5, 160: 5}, 0)
    meter.put({160: 7, 170: 1}, 130)
    assert (meter.total, meter.last_at, meter.first_after(100)) == (13, 170.0, 160)


def test_no_staged_row_is_counted_twice_as_the_one_hour_window_advances():
    """Each poll reads the counts for the whole last hour from staging."""
    meter, asked_every_s, looks = Meter(), 7, 200
    for look in range(looks):
        now = BEGIN + look * asked_every_s
        since = int(now) - WINDOW_S
        meter.put(dict.fromkeys(range(since, int(now)), 1), since)
        meter.per_minute(now)
    assert meter.total == pytest.approx(WINDOW_S + (looks - 1) * asked_every_s, abs=60)
