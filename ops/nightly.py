"""The hourly and nightly jobs of the warehouse: a series of steps that a person or a scheduler such as Airflow can run.

    python -m ops.nightly                                       run all steps for the hours since yesterday, 0:00 UTC
    python -m ops.nightly compact quality                       run only these steps
    python -m ops.nightly --from 2026-11-16 --to 2026-11-20     run all steps for other days

Every step can be repeated. A step that fails ends the run, because the next steps depend on it. The exit code
is 1 if a step failed, and 2 if a store could not be read. The DAG airflow/dags/milkrun_hourly.py runs the
same steps, but instead of `transform` it runs and tests each dbt model in steps of its own.
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

from cli.child_process import run_to_end
from cli.parse_time import parse_time
from cli.refusal import Refusal
from ops.stage_outputs import ROOT, NoStackError, Outputs, environment_of

DAY = timedelta(days=1)
FULL_TESTS = ("--vars", "full_tests: true")


@dataclass(frozen=True)
class Night:
    """One run of the jobs: the stage, and the range of hours in which the processed events were received."""

    start: datetime
    end: datetime
    stage: str
    environment: Mapping[str, str]

    @property
    def range(self) -> list[str]:
        return ["--from", self.start.isoformat(), "--to", self.end.isoformat()]


class StepFailedError(Exception):
    """Raised if a step fails. `code` is the exit code of the run."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


Facts = dict[str, Any]
Step = Callable[[Night], Facts]


def reconcile(night: Night) -> Facts:
    """Compare accepted, archived and loaded events.

    Differences do not end the run, because the next step repairs them.
    """
    code, said = _run(night, ["-m", "ops", "reconcile", *_stage(night), *night.range, "--json"])
    if code not in (0, 1):
        raise StepFailedError("could not compare accepted, archived and loaded events", 2)
    return {"equal": code == 0, "report": said}


def repair(night: Night) -> Facts:
    """Repair the differences between accepted, archived and loaded events. Raises StepFailedError if some remain."""
    if reconcile(night)["equal"]:
        return {"repaired": False}
    _run(night, ["-m", "ops", "reconcile", *_stage(night), *night.range, "--repair", "--json"])
    after = reconcile(night)
    if not after["equal"]:
        raise StepFailedError("accepted, archived and loaded events still differ after the repair", 1)
    return {"repaired": True}


def transform(night: Night) -> Facts:
    """Build every dbt model and run every dbt test."""
    return _dbt(night, ["build", *FULL_TESTS])


def compact(night: Night) -> Facts:
    """Compact the small objects of the run's hours into Parquet files."""
    bucket = Outputs.find(night.stage, night.environment).bucket
    code, said = _run(night, ["-m", "glue.compact", "--archive", f"s3://{bucket}", *night.range])
    # Exit code 1 means unreadable objects or an unexpected error. Only a job that completed prints a result.
    if code not in (0, 1) or said is None:
        raise StepFailedError("the archive could not be compacted", 2 if code == 2 else 1)
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
    """Count accepted events, conflicts, and rejected events by reason.

    `latest_seconds` is the greatest lateness of an accepted event, as in MARTS.INGEST_QUALITY.
    """
    outputs = Outputs.find(night.stage, night.environment)
    # The hour of the start belongs to the range, as in the other steps.
    between = (f"{night.start:%Y-%m-%d %H:00:00}", f"{night.end:%Y-%m-%d %H:%M:%S}")
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
    """Return a step that runs or tests one dbt model, for orchestrators that show the dependency graph."""

    def one(night: Night) -> Facts:
        # With "buildable", tests that read several models run with the last of them.
        selection = ["--select", name, *(["--indirect-selection", "buildable"] if verb == "test" else [])]
        # A run whose range ends in the hour after midnight (UTC) tests every row, other runs only the rows that they
        # restated.
        is_daily = verb == "test" and night.end.astimezone(UTC).hour == 0
        return _dbt(night, [verb, *selection, *(FULL_TESTS if is_daily else [])])

    return one


def step_of(name: str) -> Step:
    """Return the step with this name. The steps `run:MODEL` and `test:MODEL` run or test one dbt model."""
    verb, _, of = name.partition(":")
    if of and verb in ("run", "test"):
        return model(of, verb)
    if name not in STEPS:
        raise typer.BadParameter(
            f"unknown step {name!r}: choose from {', '.join(STEPS)}, run:MODEL or test:MODEL"
        )
    return STEPS[name]


def _dbt(night: Night, arguments: Sequence[str]) -> Facts:
    code, _ = _run(night, ["-m", "snowpipe", "dbt", *arguments], to_terminal=True)
    if code:
        raise StepFailedError(f"dbt {' '.join(arguments)} failed", 2 if code == 2 else 1)
    return {}


def _stage(night: Night) -> list[str]:
    return ["--stage", night.stage]


def _run(night: Night, command: Sequence[str], to_terminal: bool = False) -> tuple[int, Facts | None]:
    """Run a Python module in a separate process; return its exit code and the last JSON value in its output, if any."""
    ended = run_to_end(
        [sys.executable, *command],
        cwd=ROOT,
        env={**environment_of(night.stage, night.environment), **_aws(night)},
        stdout=sys.stderr if to_terminal else subprocess.PIPE,
    )
    return ended.returncode, None if to_terminal else _last_json(ended.stdout)


def _aws(night: Night) -> dict[str, str]:
    """Return the AWS environment variables for the local stack: endpoint, region and keys; {} for a deployed stage."""
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
    """Run steps in order until one fails, pass the result of each to `say`, and return the exit code."""
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
    steps: Annotated[list[str] | None, typer.Argument(help="Steps to run. Default: all, in order.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Start of the range. Default: yesterday 00:00 UTC.")
    ] = None,
    end: Annotated[str, typer.Option("--to", help="End of the range.")] = "now",
    stage: Annotated[str, typer.Option(help="Name of the stage: local, or a deployed stage.")] = "local",
) -> None:
    """Run the jobs and print the result of each step as a line of JSON. dbt's output goes to standard error."""
    now = datetime.now(UTC)
    try:
        first = parse_time(start, now) if start else datetime.combine(now - DAY, datetime.min.time(), UTC)
        night = Night(first, parse_time(end, now), stage, os.environ)
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
