"""Break one part after another, and find and repair each problem with the operator's commands alone (`make
incidents`).

The incidents happen on a separate stack. After each, only `milkrun` is run, as a child process: `status` must
name the part and the cause within a minute, and the commands that `status` or the runbook names must repair
the problem. Before the last two incidents, in which LocalStack loses its data, `reconcile --repair` must find that no
event was lost. The results are written to the table in docs/incidents.md, unless arguments select some incidents.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from contract.archive_object import lines_object
from ops.stage_outputs import ROOT, Outputs
from snowpipe.roles import administrator
from snowpipe.warehouse import connect
from tests.e2e.pipeline import crossing, event
from tests.faults.fault_proxy import Fault, Proxy, Rule
from tests.faults.faulty_stack import PROXY_PORT_OFFSET, proxy_url
from tools.fleet.client import Client
from tools.stack.stack import Stack

PAGE = ROOT / "docs" / "incidents.md"
MARK = "<!-- the table is written by `make incidents` -->\n"
DISK_MB = 300
FOUND_WITHIN_S = 60.0
REPAIRED_WITHIN_S = 120.0


@dataclass(frozen=True)
class Incident:
    """An incident that the function `seed` causes. `status` must name one of `parts` and the cause.

    Then the commands in `repair` are run, and `status` must stop reporting the cause, except for the parts in
    REMEMBERED.
    """

    name: str
    seed: Callable[["Lab"], object]
    parts: tuple[str, ...]
    cause: str
    repair: tuple[tuple[str, ...], ...]
    exit_code: int = 0  # of the last repair command


@dataclass
class Row:
    """A row of the table in docs/incidents.md."""

    incident: str
    said: str = ""
    next: str = ""
    found_s: float = 0.0
    repair: str = ""
    repaired_s: float = 0.0
    problem: str = ""


type Part = dict[str, Any]
"""A part of the report of `milkrun status --json`."""


@dataclass
class Lab:
    """A running stack, a proxy between the functions and AWS, and the `milkrun` command line."""

    stack: Stack
    environment: dict[str, str]
    proxy: Proxy
    posted: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> Outputs:
        return self.stack.outputs()

    def milkrun(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.milkrun", *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def status(self) -> dict[str, Part]:
        ran = self.milkrun("status", "--json")
        try:
            return {part["part"]: part for part in json.loads(ran.stdout)["parts"]}
        except ValueError:
            raise RuntimeError(
                f"`milkrun status` printed no report: {ran.stdout[-300:]} {ran.stderr[-300:]}"
            ) from None

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.stack.processes.alive(name)
        assert process is not None, name
        os.kill(process.pid, number)

    def post(self, *events: Mapping[str, object]) -> int:
        client = Client(self.outputs.endpoint, self.outputs.api_key, timeout_s=0.1)
        status, _, _ = client._post(
            json.dumps(events).encode(), client._headers | {"content-type": "application/json"}
        )
        return status or 0

    def morning(self) -> None:
        ran = self.milkrun("send", "--trucks", "2", "--farms", "4", "--invalid", "0")
        assert ran.returncode == 0, ran.stderr


def device() -> str:
    return f"incident-{time.monotonic_ns()}"


def failed_file(lab: Lab) -> None:
    made = lines_object("events", [b'{"_id": "torn', b"{}"], datetime.now(UTC))
    lab.outputs.aws("s3").put_object(Bucket=lab.outputs.bucket, Key=made.key, Body=made.body)


def poison(lab: Lab) -> None:
    lab.outputs.aws("kinesis").put_record(StreamName=lab.outputs.stream, Data=b"\xffpoison", PartitionKey="p")


def dead_letter(lab: Lab) -> None:
    """Send a claim check for an existing object to the dead-letter queue. Resending the claim check repairs
    the problem.
    """
    s3, bucket = lab.outputs.aws("s3"), lab.outputs.bucket
    key = s3.list_objects_v2(Bucket=bucket, Prefix="events/", MaxKeys=1)["Contents"][0]["Key"]
    body = json.dumps({"bucket": bucket, "key": key, "lines": [1]})
    lab.outputs.aws("sqs").send_message(QueueUrl=lab.outputs.dead_letter_queue_url, MessageBody=body)


def sql(lab: Lab, text: str) -> None:
    with connect(lab.outputs.snowflake, 20, role=administrator) as warehouse:
        warehouse.query(text.format(database=lab.outputs.database))


def wrong_clock(lab: Lab) -> None:
    phone = device()
    ahead = (datetime.now(UTC) + timedelta(days=4 * 365)).isoformat()
    late = [event(phone, createdAt=ahead) for _ in range(200)]
    assert lab.post(*late) == 400


def refusing(service: str, **rule: Any) -> Callable[[Lab], None]:
    def seed(lab: Lab) -> None:
        rules = lab.proxy.rules(Rule(Fault.REFUSED, service, **rule))
        CAUSES.enter_context(rules)
        phone = device()
        for _ in range(3):
            lab.post(crossing(phone, "enter", datetime.now(UTC)))

    return seed


CAUSES = ExitStack()
"""Closed before the repair, to end the cause of the current incident. An outage would end by itself, and an operator
would free a full disk by hand.
"""


def fill_disk(lab: Lab) -> None:
    """Fill the file system of the warehouse's folder, and post an event that therefore cannot be loaded."""
    filler = lab.stack.settings.snowflake_folder / "filler"
    CAUSES.callback(filler.unlink)
    with filler.open("wb", buffering=0) as output, suppress(OSError):
        while True:
            output.write(bytes(64 << 10))
    assert lab.post(event(device())) == 202


def freeze_aws(lab: Lab) -> None:
    lab.kill("localstack", signal.SIGSTOP)


def freeze_snowflake(lab: Lab) -> None:
    lab.kill("snowflake", signal.SIGSTOP)


def kill_both(lab: Lab) -> None:
    lab.kill("console")
    lab.kill("snowflake")


def by_hand(lab: Lab) -> None:
    """Store a JSON array under events/. It is loaded into RAW as a row that is not an event."""
    lab.outputs.aws("s3").put_object(Bucket=lab.outputs.bucket, Key="events/by-hand.json", Body=b"[1]\n")


@contextmanager
def limited(folder: Path) -> Iterator[bool]:
    """Mount a small file system at a folder; yield whether the mount succeeded. Only root can mount file systems."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={DISK_MB}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    mounted = shutil.which("mount") and not subprocess.run(mount, capture_output=True, check=False).returncode
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


UP, DBT = ("up",), ("warehouse", "dbt", "build")
INCIDENTS = (
    Incident(
        "Snowflake killed", lambda lab: lab.kill("snowflake"), ("process snowflake",), "has died", (UP,)
    ),
    Incident("Snowflake frozen", freeze_snowflake, ("process snowflake",), "suspended", (UP,)),
    Incident("LocalStack frozen", freeze_aws, ("process localstack",), "suspended", (UP,)),
    Incident("Console killed", lambda lab: lab.kill("console"), ("process console",), "has died", (UP,)),
    Incident(
        "Console and Snowflake killed",
        kill_both,
        ("process snowflake",),
        "has died",
        (UP,),
    ),
    Incident(
        "S3 returns errors",
        refusing("s3", operation="PutObject"),
        ("ingest",),
        "got a 503",
        (("logs", "ingest", "-n", "3"),),
    ),
    Incident(
        "DynamoDB returns errors",
        refusing("dynamodb"),
        ("consumer",),
        "stopped at a record",
        (("logs", "consume", "-n", "3"),),
    ),
    Incident(
        "A file that Snowpipe cannot load",
        failed_file,
        ("failed loads",),
        "in 3 h",
        (("warehouse", "validate"),),
        exit_code=1,
    ),
    Incident("A poison record", poison, ("quarantine",), "in 24 h", (("quarantine", "purge", "--yes"),)),
    Incident(
        "A paused pipe",
        lambda lab: sql(lab, "ALTER PIPE {database}.RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE"),
        ("pipes",),
        "paused",
        (("warehouse", "resume"),),
    ),
    Incident("A dead letter", dead_letter, ("dead letters",), "ran out of retries", (("redrive", "send"),)),
    Incident(
        "A dropped staging table",
        lambda lab: sql(lab, "DROP TABLE {database}.STAGING.STG_EVENTS"),
        ("staging",),
        "does not exist",
        ((*DBT, "--full-refresh"),),
    ),
    Incident(
        "A dropped mart",
        lambda lab: sql(lab, "DROP TABLE {database}.MARTS.GEOFENCE_VISITS"),
        ("marts",),
        "does not exist",
        ((*DBT, "--full-refresh"),),
    ),
    Incident(
        "A dropped pipe",
        lambda lab: sql(lab, "DROP PIPE {database}.RAW.EVENTS_PIPE"),
        ("pipes",),
        "missing object",
        (("warehouse", "apply"),),
    ),
    Incident(
        "A row that is not an event",
        by_hand,
        ("invalid rows",),
        "not_an_object",
        (("reconcile", "--settle", "0"),),
        exit_code=1,
    ),
    Incident(
        "A phone's clock years ahead",
        wrong_clock,
        ("rejects",),
        "created_at_in_future",
        (("rejects", "--by", "device"),),
        exit_code=1,
    ),
)
DISK_FULL = Incident("A full disk", fill_disk, ("disk",), "full", (UP,))
LAST = (
    Incident(
        "The Kinesis mock killed",
        lambda lab: lab.kill("kinesis"),
        ("process kinesis",),
        "has died",
        (UP, ("up", "--discard")),
    ),
    Incident(
        "LocalStack killed",
        lambda lab: lab.kill("localstack"),
        ("process localstack",),
        "has died",
        (UP, ("up", "--discard")),
    ),
)
# `status` still reports these parts after a repair, because it covers a period: 15 minutes, 3 hours or 24 hours.
REMEMBERED = ("ingest", "rejects", "consumer", "quarantine", "failed loads", "invalid rows")


def part_of(incident: Incident, found: Mapping[str, Part]) -> Part | None:
    named = (found[part] for part in incident.parts if part in found and found[part]["level"] != "OK")
    return next((part for part in named if incident.cause in part["cause"]), None)


def try_one(lab: Lab, incident: Incident) -> Row:
    row = Row(incident.name, repair=", ".join(f"`milkrun {' '.join(each)}`" for each in incident.repair))
    incident.seed(lab)
    began = time.monotonic()
    while (part := part_of(incident, lab.status())) is None:
        if time.monotonic() - began > FOUND_WITHIN_S:
            parts = " or ".join(incident.parts)
            row.problem = f"`status` did not name the part {parts} and the cause {incident.cause!r}"
            return row
    row.found_s, row.said, row.next = time.monotonic() - began, part["cause"], part["next"]
    CAUSES.close()
    began = time.monotonic()
    for command in incident.repair:
        code = lab.milkrun(*command).returncode
    if code != incident.exit_code:
        row.problem = (
            f"`milkrun {' '.join(command)}` ended with exit code {code} instead of {incident.exit_code}"
        )
        return row
    while incident.parts[0] not in REMEMBERED and part_of(incident, lab.status()):
        if time.monotonic() - began > REPAIRED_WITHIN_S:
            row.problem = "`status` still named the problem after the repair"
            return row
    row.repaired_s = time.monotonic() - began
    return row


def nothing_lost(lab: Lab) -> str:
    """Run `reconcile --repair` until it reports only the differences that the incidents caused on purpose.

    Returns "" on success, otherwise the remaining differences as JSON, or the error output.
    """
    deadline = time.monotonic() + REPAIRED_WITHIN_S
    while True:
        ran = lab.milkrun("reconcile", "--from", "1 hour ago", "--settle", "0", "--repair", "--json")
        try:
            found = json.loads(ran.stdout)
        except ValueError:
            return ran.stderr[-300:]
        kinds = {each["kind"] for each in found.get("differences", ()) if each["kind"] != "not_logged"}
        # The truncated file is not loaded until an operator repairs it.
        torn = [each for each in found.get("differences", ()) if each["kind"] == "not_loaded"]
        if not kinds - ({"not_loaded"} if len(torn) <= 1 else set()):
            return ""
        if time.monotonic() > deadline:
            return json.dumps(found["differences"])[:400]


@contextmanager
def opened(folder: str, port: int) -> Iterator[tuple[Lab, bool]]:
    """Start a stack with its console, and a proxy. Yield the Lab, and whether the warehouse's file system is small
    enough to be filled.
    """
    environment = dict(os.environ) | {
        "MILKRUN_LOCAL": folder,
        "MILKRUN_PORT": str(port),
        "MILKRUN_LAMBDA_ENDPOINT": proxy_url(port),
    }
    stack = Stack.of(environment)
    with (
        limited(stack.settings.snowflake_folder) as is_small,
        stack,
        Proxy(stack.settings.endpoint_url, port + PROXY_PORT_OFFSET) as proxy,
    ):
        stack.console()
        yield Lab(stack, environment, proxy), is_small
    shutil.rmtree(stack.settings.folder, ignore_errors=True)


def write(rows: Sequence[Row], page: Path = PAGE) -> None:
    head = page.read_text().partition(MARK)[0]
    lines = [
        "| incident | what `milkrun status` says | next command | found in | repair | repaired in |",
        "|" + "---|" * 6,
    ]
    for row in rows:
        said = (row.problem or row.said.replace("|", "\\|")).replace(f"{ROOT}/", "")
        found, repaired = (f"{s:.0f} s" if s else "–" for s in (row.found_s, row.repaired_s))
        next_command = row.next and f"`{row.next}`"
        lines.append(
            f"| {row.incident} | {said[:120]} | {next_command} | {found} | {row.repair} | {repaired} |"
        )
    run = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} cores, "
        f"with a load average of {os.getloadavg()[2]:.0f}.\n"
    )
    page.write_text(f"{head}{MARK}\n{run}\n" + "\n".join(lines) + "\n")


def main(arguments: Sequence[str]) -> int:
    # The argument lists parts of incidents' names, separated by commas; only incidents with one of these parts are run.
    only = arguments[0].lower().split(",") if arguments else [""]
    rows = []
    port = int(os.environ.get("MILKRUN_PORT", "6466"))
    with opened(".local-incidents", port) as (lab, disk_is_small):
        lab.morning()
        assert lab.milkrun(*DBT).returncode == 0
        for incident in (*INCIDENTS, DISK_FULL, *LAST):
            if incident is LAST[0]:
                lost = nothing_lost(lab)
                rows.append(Row("Events lost in all incidents above", said=lost or "none", problem=lost))
            if not any(part in incident.name.lower() for part in only):
                continue
            if incident is DISK_FULL and not disk_is_small:
                rows.append(
                    Row(incident.name, said="skipped, because only root can mount a small file system")
                )
            else:
                row = try_one(lab, incident)
                print(
                    f"{row.incident}: {row.problem or f'the cause was found in {row.found_s:.0f} s'}",
                    file=sys.stderr,
                    flush=True,
                )
                rows.append(row)
    if not arguments:
        write(rows)
    return 1 if any(row.problem for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
