"""What the warehouse needs every hour and every night, as steps for a person, EventBridge or Airflow.

    python -m ops.nightly                     all steps in order, for the last full day and the hours since
    python -m ops.nightly compact quality     some of them
    python -m ops.nightly --from 2026-11-16 --to 2026-11-20     a back-fill

Every step may be run again: what is done is left alone. A step that fails ends the run, because the next
ones build on it; the exit code is 1 then, and 2 where a step could not look at all. airflow/dags/milkrun.py
runs the same steps.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from ops.outputs import ROOT, NoStackError, Outputs, environment_of
from ops.times import instant
from snowpipe.refusal import Refusal

DAY = timedelta(days=1)
FULL_TESTS = ("--vars", "full_tests: true")


@dataclass(frozen=True)
class Night:
    """Which hours of receiving are meant, and where they are."""

    start: datetime
    end: datetime
    stage: str
    environment: Mapping[str, str]

    @property
    def range(self) -> list[str]:
        return ["--from", self.start.isoformat(), "--to", self.end.isoformat()]


class StepFailedError(Exception):
    """A step did not do its work; `code` is the exit code due."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


Facts = dict[str, Any]
Step = Callable[[Night], Facts]


def reconcile(night: Night) -> Facts:
    """Accepted = archived = loaded? Differences are an answer, not a failure: repair comes next."""
    code, said = _run(night, ["-m", "ops", "reconcile", *_stage(night), *night.range, "--json"])
    if code not in (0, 1):
        raise StepFailedError("could not compare what was accepted, archived and loaded", 2)
    return {"equal": code == 0, "report": said}


def repair(night: Night) -> Facts:
    """Repair what reconcile names; fails if anything still differs afterwards."""
    if reconcile(night)["equal"]:
        return {"repaired": False}
    _run(night, ["-m", "ops", "reconcile", *_stage(night), *night.range, "--repair", "--json"])
    after = reconcile(night)
    if not after["equal"]:
        raise StepFailedError("what was accepted, archived and loaded still differs after the repair", 1)
    return {"repaired": True}


def transform(night: Night) -> Facts:
    """Build every dbt model and run every test, in dbt's own order."""
    return _dbt(night, ["build", *FULL_TESTS])


def compact(night: Night) -> Facts:
    """The range's small objects into Parquet."""
    bucket = Outputs.find(night.stage, night.environment).bucket
    code, said = _run(night, ["-m", "glue.compact", "--archive", f"s3://{bucket}", *night.range])
    # Code 1 is also that of a job that broke off; one that was done says what it did.
    if code not in (0, 1) or said is None:
        raise StepFailedError("the archive could not be compacted", 1)
    return said


_QUALITY = """
SELECT
    outcome, code, SUM(events) AS events, SUM(conflicts) AS conflicts,
    MAX(lateness_seconds_max) AS latest_seconds
FROM {database}.MARTS.INGEST_QUALITY
WHERE received_hour >= %s AND received_hour < %s
GROUP BY outcome, code ORDER BY outcome, code
"""


def quality(night: Night) -> Facts:
    """What came in, what was rejected and why, and how late; fails only when it cannot be asked."""
    outputs = Outputs.find(night.stage, night.environment)
    between = (f"{night.start:%Y-%m-%d %H:%M:%S}", f"{night.end:%Y-%m-%d %H:%M:%S}")
    with outputs.warehouse() as warehouse:
        rows = warehouse.query(_QUALITY.format(database=outputs.database), between)
    accepted = [row for row in rows if row["outcome"] == "accepted"]
    rejected = {row["code"]: int(row["events"]) for row in rows if row["outcome"] == "rejected"}
    total = sum(int(row["events"]) for row in rows)
    return {
        "accepted": sum(int(row["events"]) for row in accepted),
        "rejected": rejected,
        "rejected_share": round(sum(rejected.values()) / total, 4) if total else 0.0,
        "conflicts": sum(int(row["conflicts"]) for row in accepted),
        "latest_seconds": max((float(row["latest_seconds"] or 0) for row in accepted), default=0.0),
    }


STEPS: dict[str, Step] = {
    "reconcile": reconcile,
    "repair": repair,
    "transform": transform,
    "compact": compact,
    "quality": quality,
}


def model(name: str, verb: str) -> Step:
    """One dbt model alone, for orchestrators that draw the graph: `run` it, or `test` what is known of it."""

    def one(night: Night) -> Facts:
        # "buildable": tests that look at other models too run with the last of them, never before.
        selection = ["--select", name, *(["--indirect-selection", "buildable"] if verb == "test" else [])]
        # Every row is tested once a day, by the run whose range ends at midnight; else what the run restated.
        is_daily = verb == "test" and night.end.astimezone(UTC).hour == 0
        return _dbt(night, [verb, *selection, *(FULL_TESTS if is_daily else [])])

    return one


def step_of(name: str) -> Step:
    """A step by its name; `run:MODEL` and `test:MODEL` are dbt's."""
    verb, _, of = name.partition(":")
    if of and verb in ("run", "test"):
        return model(of, verb)
    if name not in STEPS:
        raise typer.BadParameter(f"no step {name!r}: {', '.join(STEPS)}, run:MODEL or test:MODEL")
    return STEPS[name]


def _dbt(night: Night, arguments: Sequence[str]) -> Facts:
    code, _ = _run(night, ["-m", "snowpipe", "dbt", *arguments], to_terminal=True)
    if code:
        raise StepFailedError(f"dbt {' '.join(arguments)} failed", 1)
    return {}


def _stage(night: Night) -> list[str]:
    return ["--stage", night.stage]


def _run(night: Night, command: Sequence[str], to_terminal: bool = False) -> tuple[int, Facts | None]:
    """A command of ours in its own process; its exit code, and the last JSON value that it printed."""
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**environment_of(night.stage, night.environment), **_aws(night)},
        stdout=sys.stderr if to_terminal else subprocess.PIPE,
        text=True,
        check=False,
    )
    return ended.returncode, None if to_terminal else _last_json(ended.stdout)


def _aws(night: Night) -> dict[str, str]:
    """A local stack's address for what only knows boto3's own settings; a deployed stage has the caller's."""
    outputs = Outputs.find(night.stage, night.environment)
    if outputs.aws_endpoint_url is None:
        return {}
    return {
        "AWS_ENDPOINT_URL": outputs.aws_endpoint_url,
        "AWS_DEFAULT_REGION": outputs.region,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


def _last_json(text: str) -> Facts | None:
    for candidate in (text, *reversed(text.splitlines())):
        try:
            value = json.loads(candidate)
        except ValueError:
            continue
        return value if isinstance(value, dict) else {"value": value}
    return None


def run(names: Sequence[str], night: Night, say: Callable[[Facts], None]) -> int:
    """Run steps in order and say of each what it did; the exit code."""
    for name in names:
        began = time.monotonic()
        try:
            facts, code = step_of(name)(night), 0
        except StepFailedError as failed:
            facts, code = {"problem": str(failed)}, failed.code
        except (NoStackError, Refusal) as problem:
            facts, code = {"problem": str(problem)}, 2
        say({"step": name, "ok": not code, "seconds": round(time.monotonic() - began, 1), **facts})
        if code:
            return code
    return 0


def command(
    steps: Annotated[list[str] | None, typer.Argument(help="Which; default: all in order")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Default: yesterday at midnight, UTC")] = None,
    end: Annotated[str, typer.Option("--to")] = "now",
    stage: Annotated[str, typer.Option(help="local, dev, staging or prod")] = "local",
) -> None:
    """One line of JSON a step on standard output; what dbt says on standard error."""
    now = datetime.now(UTC)
    try:
        first = instant(start, now) if start else datetime.combine(now - DAY, datetime.min.time(), UTC)
        night = Night(first, instant(end, now), stage, os.environ)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if night.start >= night.end:
        raise typer.BadParameter("--from must be before --to")
    names = steps or list(STEPS)
    for name in names:
        step_of(name)
    raise typer.Exit(
        run(names, night, lambda facts: typer.echo(json.dumps(facts, default=str, allow_nan=False)))
    )


if __name__ == "__main__":
    typer.run(command)
