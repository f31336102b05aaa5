"""Test the verdict and the output of `milkrun status`, and that a source that hangs or fails delays no other."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
import typer
from botocore.exceptions import ClientError

from cli import command_errors
from ops import status_checks, status_layout
from ops.stage_outputs import NoStackError, Outputs
from ops.status_findings import BUDGET_SECONDS, Finding, Source, ask, verdict
from tools.stack import status_command

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
WELL = Finding("archive", "OK", "reachable")
BAD = Finding(
    "dead letters",
    "FAIL",
    "3 claim checks ran out of retries",
    NOW - timedelta(hours=5),
    "milkrun redrive send",
    "dead-letters",
)
ODD = Finding("quarantine", "WARN", "1 object in 24 h")


def source(name: str, *findings: Finding) -> Source:
    return Source(name, (name,), lambda: findings, f"the contents of {name} are unknown")


def frozen(name: str, *parts: str) -> Source:
    return Source(
        name,
        parts,
        lambda: threading.Event().wait(60) and [],
        "it is unknown what is loaded",
        "snowpipe-stopped",
    )


def failing(name: str) -> Source:
    def look() -> Iterator[Finding]:
        yield WELL
        raise ConnectionRefusedError("connection\nrefused")

    return Source(name, (name,), look, "the archive's state is unknown")


@pytest.mark.parametrize(
    ("findings", "worst"), [([], "OK"), ([WELL], "OK"), ([WELL, ODD], "WARN"), ([BAD, ODD, WELL], "FAIL")]
)
def test_status_verdict_is_the_worst_level_of_all_parts(findings: list[Finding], worst: str) -> None:
    assert verdict(findings) == worst


def test_each_part_of_a_frozen_source_has_level_fail_and_no_other_source_is_delayed() -> None:
    began = time.monotonic()
    found = ask(
        [source("S3", WELL), frozen("Snowflake", "pipes", "marts"), source("SQS", BAD)], budget_seconds=0.3
    )
    assert time.monotonic() - began < 2
    assert [(each.part, each.level) for each in found] == [
        ("archive", "OK"), ("pipes", "FAIL"), ("marts", "FAIL"), ("dead letters", "FAIL"),
    ]  # fmt: skip
    assert found[1].cause == "Snowflake: no answer within 0.3 s; it is unknown what is loaded"
    assert found[1].section == "snowpipe-stopped"


def test_source_that_fails_halfway_is_reported_on_one_line_with_level_fail() -> None:
    (found,) = ask([failing("S3")])
    assert (found.part, found.level) == ("S3", "FAIL")
    assert found.cause == "S3: connection refused; the archive's state is unknown"


def test_process_ends_even_if_a_status_source_hangs() -> None:
    code = (
        "import threading, sys\n"
        "from ops.status_findings import Source, ask\n"
        "found = ask([Source('Snowflake', ('pipes',), lambda: threading.Event().wait(60), 'x')], 0.2)\n"
        "print(found[0].level)\n"
    )
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout.strip() == "FAIL"


@pytest.mark.parametrize(("finding", "code"), [(WELL, 0), (ODD, 1), (BAD, 2)], ids=["well", "odd", "bad"])
def test_exit_code_and_json_of_status_show_the_verdict(
    finding: Finding, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_layout.report(lambda: [WELL, finding], "dev", as_json=True, wide=False, watch=False) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["stage"] == "dev"
    assert printed["verdict"] == finding.level
    assert printed["parts"][1]["cause"] == finding.cause


def test_watched_status_continues_without_a_network_and_exits_with_the_last_verdict_after_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    down = NoStackError("stage prod could not be looked up: no network")
    answers: Iterator[BaseException | None] = iter([None, down, None, KeyboardInterrupt()])

    def find(*_: object) -> None:
        if error := next(answers):
            raise error

    monkeypatch.setattr("tools.stack.status_command.Outputs.find", find)
    monkeypatch.setattr("tools.stack.status_command.findings_of", lambda *_: [WELL])
    monkeypatch.setattr(status_layout, "BUDGET_SECONDS", 0)
    app = typer.Typer()
    app.command()(status_command.command)
    assert command_errors.run(app, ["--stage", "prod", "--watch"], obj={}, environment={}, tell=print) == 0
    said = capsys.readouterr().out
    assert "OK prod: all parts are healthy" in said
    assert "stage prod could not be looked up: no network" in said


def test_status_shows_a_problem_with_its_age_next_command_and_runbook_section(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status_layout.show([WELL, BAD], "prod", NOW, wide=True)
    printed = capsys.readouterr().out
    assert "FAIL prod: problems in 1 of 2 parts" in printed
    assert "3 claim checks ran out of retries (since 5 h ago)" in printed
    assert "next: milkrun redrive send" in printed
    assert "docs/runbook.md#dead-letters" in printed


@pytest.mark.parametrize(
    ("rejected", "level", "cause"),
    [
        (0, "OK", "0 of 500 events rejected in 15 min"),
        (25, "OK", "25 of 500 events rejected in 15 min"),
        (26, "WARN", "26 of 500 events rejected in 15 min: 26 as created_at_in_future"),
    ],
)
def test_status_warns_if_more_than_5_percent_of_the_events_are_rejected(
    rejected: int, level: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_lines(_outputs: object, _stage: str, function: str, *_: object, **__: object) -> Iterator[object]:
        if function == "ingest":
            codes = {"created_at_in_future": rejected} if rejected else {}
            yield NOW, {"received": 500, "rejected": rejected, "rejected_by_code": codes, "status": 202}

    monkeypatch.setattr(status_checks, "log_lines", log_lines)
    outputs = Mock(spec=Outputs)
    sources = status_checks.sources_of(outputs, "dev", NOW)
    [logs] = [each for each in sources if "rejects" in each.parts]
    [found] = [each for each in logs.look() if each.part == "rejects"]
    assert (found.level, found.cause) == (level, cause)


def test_status_reads_the_latest_seconds_of_a_log_that_takes_too_long_to_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each page of the fake log contains the line of one second. Reading a page takes 0.1 s of a simulated clock."""
    seconds = 0.0

    def paginate(startTime: int, endTime: int, **_: object) -> Iterator[object]:
        nonlocal seconds
        for at in range(startTime, endTime, 1000):
            seconds += 0.1
            line = {"event": "events_ingested", "status": 202, "received": 1}
            yield {"events": [{"timestamp": at, "message": json.dumps(line)}], "nextToken": "more"}

    monkeypatch.setattr("ops.read_log_lines.monotonic", lambda: seconds)
    outputs = Mock(spec=Outputs)
    outputs.aws.return_value.get_paginator.return_value.paginate = paginate
    sources = status_checks.sources_of(outputs, "dev", NOW)
    [logs] = [each for each in sources if "ingest" in each.parts]
    assert [each.cause for each in logs.look()] == [
        "9 requests in 9 s, 9 events",
        "0 of 9 events rejected in 9 s",
    ]
    assert seconds < BUDGET_SECONDS


@pytest.mark.parametrize(
    ("lines", "level"),
    [
        ([("shard-1", "90"), ("shard-2", None)], "WARN"),
        ([("shard-2", None), ("shard-1", "90")], "WARN"),
        ([("shard-1", "90"), ("shard-2", None), ("shard-1", None)], "OK"),
    ],
    ids=["another shard continues", "last line", "the shard continues"],
)
def test_status_reports_a_shard_whose_processing_stopped_until_that_shard_continues(
    lines: list[tuple[str, str | None]], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_lines(_outputs: object, _stage: str, function: str, *_: object, **__: object) -> Iterator[object]:
        for shard, stopped_at in lines if function == "consume" else ():
            stop = {"stopped_at": stopped_at, "failure": "timeout"} if stopped_at else {}
            yield NOW, {"shard_id": shard, **stop}

    monkeypatch.setattr(status_checks, "log_lines", log_lines)
    sources = status_checks.sources_of(Mock(spec=Outputs), "dev", NOW)
    [logs] = [each for each in sources if "consumer" in each.parts]
    [found] = [each for each in logs.look() if each.part == "consumer"]
    assert found.level == level


@pytest.mark.parametrize(("part", "prefix"), [("quarantine", "set-aside/"), ("given up", "aws/lambda/")])
def test_status_finds_a_recent_object_listed_after_a_thousand_older_ones(part: str, prefix: str) -> None:
    outputs, s3 = Mock(bucket="archive"), Mock()
    s3.exceptions.ClientError = ClientError
    outputs.aws.return_value = s3
    s3.get_object.return_value = {
        "Body": Mock(read=lambda: b'{"at": "2026-11-28T11:00Z", "equal": true, "differences": 0}')
    }
    old = [{"Key": f"{prefix}{n}", "LastModified": NOW - timedelta(hours=30)} for n in range(1000)]
    new = [{"Key": f"{prefix}new", "LastModified": NOW - timedelta(hours=1)}]
    s3.list_objects_v2.return_value = {"Contents": old}
    s3.get_paginator.return_value.paginate.return_value = [{"Contents": old}, {"Contents": new}]
    [source] = [each for each in status_checks.sources_of(outputs, "dev", NOW) if each.name == "S3"]
    [found] = [each for each in ask([source]) if each.part == part]
    assert found.level != "OK"
    assert found.since == NOW - timedelta(hours=1)


def test_status_shows_active_composite_alarms_but_not_their_parts() -> None:
    def paginate(AlarmTypes: tuple[str, ...] = ("MetricAlarm",), **_: str) -> list[dict[str, object]]:
        part = {"AlarmName": "milkrun-dev-records-arrive", "AlarmActions": []}
        stopped = {"AlarmName": "milkrun-dev-consume-stopped", "AlarmActions": ["arn:aws:sns:x:1:dev-page"]}
        found = {"MetricAlarm": ("MetricAlarms", [part]), "CompositeAlarm": ("CompositeAlarms", [stopped])}
        return [dict(found[kind] for kind in AlarmTypes)]

    outputs = Mock()
    outputs.aws.return_value.get_paginator.return_value.paginate = paginate
    [source] = [each for each in status_checks.sources_of(outputs, "dev", NOW) if each.name == "CloudWatch"]
    assert [(each.part, each.level) for each in ask([source])] == [("alarm consume-stopped", "FAIL")]


def test_status_does_not_show_alarms_of_a_stage_whose_name_begins_with_that_of_this_stage() -> None:
    alarms = [
        {"AlarmName": f"milkrun-{stage}-api-5xx", "AlarmActions": [f"arn:aws:sns:x:1:milkrun-{stage}-pages"]}
        for stage in ("dev-2", "dev")
    ]
    outputs = Mock()
    outputs.aws.return_value.get_paginator.return_value.paginate.return_value = [{"MetricAlarms": alarms}]
    [source] = [each for each in status_checks.sources_of(outputs, "dev", NOW) if each.name == "CloudWatch"]
    assert [(each.part, each.level) for each in ask([source])] == [("alarm api-5xx", "FAIL")]


def test_status_names_active_alarms_with_disabled_actions_but_reports_no_problem() -> None:
    alarm = {
        "AlarmName": "milkrun-dev-no-traffic",
        "AlarmActions": ["arn:aws:sns:x:1:dev-page"],
        "ActionsEnabled": False,
    }
    outputs = Mock()
    outputs.aws.return_value.get_paginator.return_value.paginate.return_value = [{"MetricAlarms": [alarm]}]
    [source] = [each for each in status_checks.sources_of(outputs, "dev", NOW) if each.name == "CloudWatch"]
    assert ask([source]) == [Finding("alarms", "OK", "active, but disabled: no-traffic")]


def test_status_shows_the_runbook_section_of_a_problem_without_a_next_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    [found] = ask([frozen("Snowflake", "pipes")], budget_seconds=0.1)
    status_layout.show([found, BAD], "prod", NOW, wide=False)
    printed = capsys.readouterr().out
    assert "docs/runbook.md#snowpipe-stopped" in printed
    assert "docs/runbook.md#dead-letters" not in printed


@pytest.mark.parametrize(
    ("read_through", "cause"),
    [
        (None, "no dbt run has completed, but RAW's newest row is from 2026-11-28T12:00"),
        (NOW - timedelta(days=1), "dbt has read RAW up to 2026-11-27T12:00"),
    ],
)
def test_staging_that_lags_behind_raw_is_reported_with_the_progress_of_dbt(
    read_through: datetime | None, cause: str
) -> None:
    warehouse = Mock()
    warehouse.query.side_effect = lambda sql: [{"at": NOW if "RAW" in sql else read_through}]
    found = status_checks.staging(warehouse, "MILKRUN")
    assert found.level == "WARN"
    assert cause in found.cause


def test_every_section_that_a_status_finding_names_is_in_the_runbook() -> None:
    root = Path(__file__).parents[3]
    headings = {
        line[3:].strip().lower().replace(" ", "-")
        for line in (root / "docs/runbook.md").read_text().splitlines()
        if line.startswith("## ")
    }
    sources = ("ops/status_checks.py", "tools/stack/local_status.py")
    source_text = "".join((root / source).read_text() for source in sources)
    called = r'\b(?:_problem_if\(\s*[^",]+,\s*|problem\(\s*)(?:"[^"]*"|part),\s*"([^"]+)"'
    assert set(re.findall(called, source_text)) <= headings
    named = {name for name in headings if f'"{name}"' in source_text}
    assert {
        "snowpipe-stopped",
        "dead-letters",
        "api-5xx",
        "set-aside",
        "iterator-age",
        "failed-loads",
        "invalid-rows",
        "rejected-events",
        "snowflake-unreachable",
        "s3-unreachable",
        "the-local-aws-is-gone",
        "the-disk-is-full",
        "staging-or-marts-are-old",
    } <= named
