"""`milkrun verify`: run the end-to-end tests against a stage, and delete the data that they created.

The tests are those in `tests/e2e` with the mark `stage`; the local stack and a deployed stage run the same
tests. Device ids begin with the run's label, and requests send the label as their app version, so that the
run's data can be found and deleted.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4
from xml.etree import ElementTree as ET

import typer
from rich.text import Text

from cli.refusal import Refusal
from consumer.visits import Pair, pair_of
from contract.archive_object import hour_folder
from contract.event_rules import geofence_event
from contract.events import InvalidEvent
from glue.archive import Bucket
from glue.forget import write_plan
from ops import terminal
from ops.build_marts import build_marts
from ops.forget import TIMEOUT_SECONDS
from ops.forget_rows import TABLES, forget_objects
from ops.forget_visits import forget_pairs
from ops.monthly_bill import Prices
from ops.polling import until
from ops.read_stores import device_stays, geofence_kinds, readable_lines, stream_records
from ops.stage_outputs import ROOT, Outputs, environment_of
from snowpipe.warehouse import Warehouse

ASSUMPTIONS = ROOT / "docs" / "reference" / "assumptions.md"
PREFIXES = ("events", "rejected", "set-aside")
KEYS_A_QUERY = 1000

# The maximum that a run sends and stores, counted on the local stack and rounded up.
REQUESTS, OBJECTS, EVENTS = 300, 200, 1_000
THROTTLE_REQUESTS = 3_000
"""The maximum number of requests that the test of the usage plan sends. This test runs only on deployed stages."""
WAREHOUSE_MINUTES = 15
"""Minutes of an XSMALL warehouse (1 credit per hour) for queries, one dbt build and one full refresh."""

type Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    test: str  # such as tests/e2e/test_pipeline.py::test_…
    outcome: Outcome
    detail: str


def command(
    context: typer.Context,
    *,
    stage: terminal.Stage = "local",
    yes: terminal.Yes = False,
    marts: Annotated[
        bool, typer.Option(help="Afterwards rebuild staging and marts without the tests' data.")
    ] = True,
    tests: Annotated[
        str | None,
        terminal.text_option("TEXT", "Run only tests whose name contains TEXT (pytest -k).", "--tests"),
    ] = None,
    token_command: Annotated[
        str | None,
        terminal.text_option(
            "COMMAND",
            "For stages that require tokens: a command that prints a token. The device id is appended to the command.",
        ),
    ] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Run the end-to-end tests against a stage, and delete the data that they created.

    The command prints the assumptions of docs/reference/assumptions.md that the tests verified or, on the local
    stack, would verify on AWS. It needs the test environment: run `tools/setup.sh test fuzz check`. Exit code 1:
    a test failed, no test ran, some data could not be deleted, or the marts could not be rebuilt.
    """
    outputs = terminal.outputs_of(context, stage)
    if outputs.ingest_function and not (outputs.token_issuer or token_command):
        # Each test has its own device, so a single token for all tests would not be enough.
        raise Refusal(
            f'Stage {stage} requires tokens: add --token-command (docs/deploy.md, "Acceptance run").'
        )
    label = f"verify-{uuid4().hex[:8]}"
    # Any stage can be deployed to LocalStack (docs/deploy.md).
    is_local = outputs.aws_endpoint_url is not None
    for line in announcement(stage, label, is_local=is_local):
        terminal.err.print(line)
    if not is_local and not yes:
        typer.confirm(f"Run the tests against stage {stage}?", abort=True, err=True)
    since = datetime.now(UTC)
    try:
        results = run_tests(stage, label, tests, token_command or "", context.obj)
    finally:
        left = remove(outputs, stage, label, since)
        built = not marts or build_marts(environment_of(stage, context.obj), "--full-refresh")
    claims = list(assumptions(passed(results)))
    outcomes = [asdict(each) for each in results]
    report = {
        "stage": stage,
        "label": label,
        "tests": outcomes,
        # The local AWS and Snowflake were written under the same assumptions, so they verify nothing.
        "verified": not is_local,
        "assumptions": claims,
        "removed": left,
        "marts_built": built and marts,
    }
    if as_json:
        terminal.print_json(report)
    else:
        terminal.show_rows(outcomes, as_json=False, title=f"stage {stage}, run {label}")
        verb = "would be verified on AWS" if is_local else "verified"
        terminal.show_rows([{f"assumption {verb}": each} for each in claims], as_json=False)
        terminal.show(left, as_json=False)
    if not results or not built or left["left_in_s3"] or any(each.outcome == "failed" for each in results):
        raise typer.Exit(1)


def announcement(stage: str, label: str, *, is_local: bool) -> Iterator[str]:
    """Yield sentences that describe what the run will do and what it will cost at the list prices in
    ops/prices.yml.
    """
    prices = Prices()
    # The test of the usage plan sends requests until the first 429, and each of them stores one event.
    beyond = 0 if is_local else THROTTLE_REQUESTS
    requests, events, objects = REQUESTS + beyond, EVENTS + beyond, OBJECTS + beyond
    aws = (
        requests * (prices["api_gateway.rest_request"] + prices["lambda.request"])
        + objects * prices["s3.put"]
    )
    credits = WAREHOUSE_MINUTES / 60
    yield f"Stage {stage}, run {label}: at most {requests} requests, {events} events, {objects} objects."
    if is_local:
        yield "The local stack costs nothing."
        return
    usd = credits * prices["snowflake.credit"]
    yield (
        f"Cost at list prices: AWS ${aws:.2f}; Snowflake {credits:.2f} credits (${usd:.2f}). If this stage "
        "has much data, the full refresh of the marts afterwards costs more (--no-marts skips it)."
    )
    yield (
        "The alarm `set-aside` fires once and notifies its subscribers. The redrive function is paused for a "
        "minute."
    )
    yield "Subscribers to the event bus receive notifications of the tests' visits."


def run_tests(
    stage: str, label: str, only: str | None, token_command: str, environment: Mapping[str, str]
) -> list[Result]:
    """Run the tests with the mark `stage` in a separate process; return the result of each test."""
    target = stage
    if stage == "local":
        target = str((ROOT / (environment.get("MILKRUN_LOCAL") or ".local") / "outputs.json").resolve())
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "results.xml"
        arguments = ["tests/e2e", "-m", "stage", "-v", "-p", "no:cacheprovider", f"--junitxml={written}"]
        arguments += ["-k", only] if only else []
        # A deployed pipe takes a minute to load files that the local pipe loads in half a second.
        arguments += [] if stage == "local" else ["--timeout", "1800"]
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=ROOT,
            # The tests' own `warehouse` and dbt commands must use this stage's Snowflake, too.
            env={
                **environment_of(stage, environment),
                "MILKRUN_E2E_OUTPUTS": target,
                "MILKRUN_E2E_LABEL": label,
                "MILKRUN_E2E_TOKEN_COMMAND": token_command,
                "PYTHONUNBUFFERED": "1",  # one line per test, as soon as it ends
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running:
            assert running.stdout
            for line in running.stdout:
                terminal.err.print(Text(line.rstrip()))
        if not written.exists():
            raise Refusal(
                "pytest did not run: see its output above. If packages are missing, run: tools/setup.sh test fuzz check"
            )
        return list(results_of(written))


def results_of(path: Path) -> Iterator[Result]:
    """Yield the result of each test case in a JUnit report."""
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        name = re.sub(r"\[.*", "", case.get("name", ""))
        module = case.get("classname", "").replace(".", "/")
        outcome: Outcome = "passed"
        detail = ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome, detail = "failed", child.get("message", "")
            elif child.tag == "skipped":
                outcome, detail = "skipped", child.get("message", "")
        yield Result(f"{module}.py::{name}", outcome, " ".join(detail.split())[:200])


def passed(results: Iterable[Result]) -> set[str]:
    """Return the names of the tests whose parametrised cases all passed."""
    outcomes: dict[str, set[Outcome]] = {}
    for each in results:
        outcomes.setdefault(each.test, set()).add(each.outcome)
    return {test for test, found in outcomes.items() if found == {"passed"}}


def assumptions(passed: set[str]) -> Iterator[str]:
    """Yield the claims in docs/reference/assumptions.md that the tests verified: the row of such a claim names this
    command and at least one test, and all tests that it names have passed.
    """
    for line in ASSUMPTIONS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) == 5 and "`milkrun verify`" in cells[4]:
            named = set(re.findall(r"`(tests/e2e/\w+\.py::\w+)`", f"{cells[3]} {cells[4]}"))
            if named and named <= passed:
                yield cells[0]


# --- deleting the run's data


def remove(
    outputs: Outputs, stage: str, label: str, since: datetime, timeout_s: float = TIMEOUT_SECONDS
) -> dict[str, object]:
    """Delete the run's objects with all their versions, its rows in RAW, and its items in the visits table;
    return what was deleted.

    Wait up to `timeout_s` seconds for Snowpipe to load the objects. Objects that Snowpipe has not loaded by
    then are not deleted, but listed in `left_in_s3`.
    """
    s3 = outputs.aws("s3")
    store = Bucket(outputs.bucket, s3)
    kinds = geofence_kinds(outputs, stage)
    keys: list[str] = []
    pairs: dict[Pair, set[str]] = {}
    devices: set[str] = set()
    for key in _recent(store, since):
        answer = s3.get_object(Bucket=outputs.bucket, Key=key)
        lines = readable_lines(answer["Body"].read()) or []  # an object of another sender may be damaged
        if answer["Metadata"].get("app-version") != label and not (
            lines and all(label.encode() in line for line in lines)
        ):
            continue
        keys.append(key)
        for line in lines:
            devices |= set(re.findall(rf"{label}-[\w-]*\w", line.decode(errors="replace")))
            try:
                event = geofence_event(line, kinds)
            except InvalidEvent:
                continue
            pairs.setdefault(pair_of(event), set()).add(event.event_id)
    # Some tests send records to the stream that no object contains.
    for record in stream_records(outputs.aws("kinesis"), outputs.stream, since - timedelta(seconds=5)):
        devices |= set(re.findall(rf"{label}-[\w-]*\w", record.data.decode(errors="replace")))
    dynamodb = outputs.aws("dynamodb")
    for device in devices:
        for stay in device_stays(dynamodb, outputs.visits_table, device):
            pairs.setdefault(Pair(device, stay.fence), set())
    items = forget_pairs(dynamodb, outputs.visits_table, pairs)
    with outputs.warehouse() as warehouse:
        # Rows that Snowpipe loads after the deletion would remain, so objects not loaded yet are kept.
        waiting = until(
            lambda: not_loaded(warehouse, outputs.database, keys), lambda left: not left, timeout_s=timeout_s
        )
        gone = [key for key in keys if key not in waiting]
        note_removal(store, label, gone)
        rows = forget_objects(warehouse, outputs.database, gone)
    store.delete(gone)
    return {"objects": len(gone), "raw_rows": rows, "visit_items": items, "left_in_s3": sorted(waiting)}


def not_loaded(warehouse: Warehouse, database: str, keys: Iterable[str]) -> set[str]:
    """Return the keys of the objects that have no rows in RAW, except those of quarantined records, which are never
    loaded.
    """
    missing: set[str] = set()
    for prefix, table in TABLES.items():
        wanted = [key for key in keys if key.startswith(f"{prefix}/")]
        for some in batched(wanted, KEYS_A_QUERY, strict=False):
            places = ", ".join(["%s"] * len(some))
            sql = f"SELECT DISTINCT file_name FROM {database}.RAW.{table} WHERE file_name IN ({places})"
            missing |= set(some) - {row["file_name"] for row in warehouse.query(sql, some)}
    return missing


def note_removal(store: Bucket, label: str, keys: Iterable[str]) -> None:
    """Store the keys in a plan like those that `forget` writes, so that `reconcile` does not report the
    deleted objects as lost.
    """
    write_plan(store, {"request": label, "objects": [{"old": key, "new": None} for key in keys]})


def _recent(store: Bucket, since: datetime) -> Iterator[str]:
    """Yield the keys of all objects that were stored since the run began, including those of quarantined records."""
    hour = since.replace(minute=0, second=0, microsecond=0)
    while hour <= datetime.now(UTC):
        for prefix in PREFIXES:
            for stored in store.list(f"{prefix}/{hour_folder(hour)}/"):
                if stored.modified_at >= since - timedelta(seconds=5):
                    yield stored.key
        hour += timedelta(hours=1)
