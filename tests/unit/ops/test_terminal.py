"""Test that terminal output is safe and readable, and that a failing command prints one line and exits with code 2."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import botocore.exceptions
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from ops import smoke, terminal
from ops.polling import until
from ops.smoke import event, follow
from ops.stage_outputs import NoStackError, Outputs
from snowpipe.settings import Connection
from tests.unit.tools.fleet.test_send import server
from tools.milkrun import app

ODD = "[/x] [bold]truck[/bold] [red]"

NOWHERE = Outputs(
    endpoint="http://127.0.0.1:1/v1/events",
    api_key="k",
    region="us-east-1",
    bucket="b",
    stream="s",
    visits_table="v",
    redrive_queue_url="http://127.0.0.1:1/q",
    dead_letter_queue_url="http://127.0.0.1:1/d",
    aws_endpoint_url="http://127.0.0.1:1",
    snowflake=Connection(account="a", user="u", password="p", host="127.0.0.1", port=1, protocol="http"),
)


def test_progress_is_printed_as_lines_if_stderr_is_not_a_terminal(
    printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "HEARTBEAT_SECONDS", 0.01)
    with terminal.progress() as bars:
        bars.advance(bars.add_task("sent", total=955), 120)
        until(printed.getvalue, lambda text: "\n" in text, timeout_s=5, every_s=0.01)
    assert printed.getvalue().startswith("sent: 120 of 955 after 0 s\n")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    for name in ("out", "err"):
        monkeypatch.setattr(terminal, name, Console(file=text, width=200, highlight=False, soft_wrap=True))
    return text


def test_brackets_in_ids_are_not_interpreted_as_markup(printed: io.StringIO) -> None:
    terminal.show_rows([{"device": ODD}], False)
    terminal.show({"device": ODD}, False)
    terminal.fail(f"{ODD} was not found")
    assert printed.getvalue().count(ODD) == 3


HOSTILE = "van\x1b[2J\x07\x9b31m\u202etxt.exe\u2066\r\ud800"


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_control_and_bidirectional_characters_never_reach_the_terminal(
    as_json: bool, printed: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.show_rows([{"device": HOSTILE}], as_json)
    terminal.fail(f"no such device: {HOSTILE}")
    terminal.note(HOSTILE)
    shown = printed.getvalue() + capsys.readouterr().out
    assert "van\\u001b[2J" in shown.replace("\\\\", "\\")
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []


def test_printed_json_decodes_to_the_original_value(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"device": HOSTILE.replace("\ud800", "") + "\U000e0001 é"}
    terminal.print_json(value)
    assert json.loads(capsys.readouterr().out) == value


def test_wide_values_are_wrapped_and_never_truncated(printed: io.StringIO) -> None:
    terminal.show_rows([{"step": "a" * 150, "key": "k" * 150}], False)
    assert (printed.getvalue().count("a"), printed.getvalue().count("k")) == (150, 151)


@pytest.mark.parametrize(
    "problem",
    [
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://[::1]:1/"),
        botocore.exceptions.ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject"),
        NoStackError("no stack"),
    ],
)
def test_failing_command_prints_one_line_and_exits_with_code_2(
    problem: Exception, printed: io.StringIO
) -> None:
    failing = typer.Typer()

    @failing.command()
    def command() -> None:
        raise problem

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ops"])
        assert terminal.run(failing, {}) == 2
    assert printed.getvalue() == f"{problem}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "--begin", "soonish"], "is not a time"),
        (["send", "--run", "zz"], "8 hexadecimal digits"),
        (["visits", "--device", "d", "--since", "soonish"], "is not a time"),
        (["visits", "--fence", "farm/1", "--since", "now"], "--since requires --device"),
        (["visits", "--fence", "farm"], "tag/externalId"),
        (["visits"], "--device"),
        (["replay"], "use one of --from"),
        (["replay", "--set-aside", "x", "--from", "now"], "use one of --from"),
        (["replay", "--set-aside", "x", "--device", "d"], "only for archived events"),
        (["replay", "--on-failure", "--type", "t"], "only for archived events"),
        (["replay", "--on-failure", "--to", "2 hours ago"], "only for archived events"),
        (["replay", "--set-aside", "x", "--restart"], "only for archived events"),
        (["replay", "--prefix", "dt=2026-11-16/"], "must begin with events/"),
        (["replay", "--from", "now", "--to-file", "f"], "--to-file requires --set-aside"),
        (["reconcile", "--from", "soonish"], "is not a time"),
        (["reconcile", "--from", "now", "--to", "2 hours ago"], "is after --to"),
        (["replay", "--from", "now", "--to", "2 hours ago"], "is after --to"),
        (["where", "x", "--from", "now", "--to", "2 hours ago"], "is after --to"),
        (["trace", "--device", "d", "--at", "now", "--to", "now"], "no effect with --device"),
        (["cost", "--small", "--freshness", "5"], "--small sets"),
        (["cost", "--shards", "4"], "--shards requires"),
        (["set-aside", "--send", "--purge"], "not both"),
        (["redrive", "--send", "--purge"], "not both"),
        (["preflight", "9a"], "'9a' is not a stage name"),  # a stage name begins with a letter
        (["smoke", "--stage", "Prod"], "'Prod' is not a stage"),  # not valid in a bucket name
        (["smoke", "--stage", "a" * 20], "is not a stage"),
    ],
)
def test_invalid_argument_is_reported_without_a_traceback(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "outputs_of", lambda _context, _stage: NOWHERE)
    ended = CliRunner().invoke(app, arguments, obj={}, env={"COLUMNS": "200"})
    assert ended.exit_code == 2
    assert said in ended.output


def test_error_names_the_invalid_outputs_file(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    for text in ("{}", "", "[]"):
        path.write_text(text)
        with pytest.raises(NoStackError, match=r"outputs\.json is not a valid outputs.json"):
            Outputs.read(path)


def test_smoke_command_reports_an_unreachable_endpoint() -> None:
    [(step, seen, detail)] = follow(NOWHERE, {}, "smoke-1", event("smoke-1"), 0)
    assert (step, seen) == ("accepted", False)
    assert detail.startswith("no answer")


def test_smoke_command_sends_an_enter_event_of_a_type_that_the_stage_publishes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the setting geofenceKinds replaces Radar's types, events of Radar's types are archived, but not published."""
    sent: list[str] = []

    def post(body: bytes, _: str) -> tuple[int, bytes]:
        sent.append(json.loads(body)[0]["type"])
        return 503, b"{}"

    monkeypatch.setattr(terminal, "outputs_of", lambda _context, _stage: NOWHERE)
    monkeypatch.setattr(smoke.reachable_stores, "require", lambda *_: None)
    monkeypatch.setattr(smoke, "geofence_kinds", lambda *_: {"depot_out": "exit", "depot_in": "enter"})
    monkeypatch.setattr(smoke, "poster", lambda _: post)
    assert CliRunner().invoke(app, ["smoke"], obj={}).exit_code == 1
    assert sent == ["depot_in"]


@pytest.mark.parametrize("status", [200, 400])
def test_smoke_command_does_not_mistake_the_page_of_a_proxy_for_a_receipt(status: int) -> None:
    with server(lambda *_: (status, {}, b"<html>Sign in</html>")) as (url, _):
        outputs = NOWHERE.model_copy(update={"endpoint": url})
        [(step, seen, detail)] = follow(outputs, {}, "smoke-1", event("smoke-1"), 0)
    assert (step, seen) == ("accepted", False)
    assert f"answered {status} without a receipt" in detail


ROWS = [{"device": "truck-01-0a1b2c3d", "key": "k" * 60, "since": "06:30", "note": "fourteen chars"}]


@pytest.mark.parametrize(
    ("width", "names"),
    [
        (200, ["device", "key", "since", "note"]),
        (80, ["device", "since", "note"]),
        (30, ["device", "since"]),
        (5, ["device"]),
    ],
)
def test_narrow_terminal_shows_fewer_columns_with_whole_values(width: int, names: list[str]) -> None:
    assert terminal.fitting(list(ROWS[0]), ROWS, width) == names


def test_details_in_the_last_column_use_the_remaining_width() -> None:
    rows = [{"what": "archived", "at": "2026-11-28T12:00:00.000Z", "detail": "key " + "k" * 100}]
    assert terminal.fitting(list(rows[0]), rows, 80) == ["what", "at", "detail"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("2026-11-28T06:30:12.345Z", "06:30:12Z"),
        (datetime(2026, 11, 27, 6, 30, tzinfo=UTC), "2026-11-27 06:30Z"),
        ("2026-11-28", "2026-11-28"),
        (None, None),
    ],
    ids=["today", "yesterday", "a date", "nothing"],
)
def test_terminal_tables_shorten_timestamps(value: object, shown: object) -> None:
    assert terminal.short_time(value, datetime(2026, 11, 28, 12, tzinfo=UTC)) == shown


def test_columns_omitted_on_a_narrow_terminal_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = io.StringIO()
    for name in ("out", "err"):
        console = Console(file=text, width=80, force_terminal=True, color_system=None, highlight=False)
        monkeypatch.setattr(terminal, name, console)
    terminal.show_rows(ROWS, False)
    printed = text.getvalue()
    assert "truck-01-0a1b2c3d  06:30  fourteen chars" in printed
    assert "omitted, because the terminal is narrow: key (use --wide or --json)" in printed


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ""),
        (datetime(2026, 11, 22, 12, 30, tzinfo=UTC), "2026-11-22T12:30:00.000Z"),
        ({"a": 1, "b": None}, "a 1, b "),
        ({}, "none"),
        (0.25, "0.25"),
        (1234.5, "1234"),
        ("x", "x"),
    ],
)
def test_values_are_formatted_as_readable_text(value: object, words: str) -> None:
    assert terminal.in_words(value) == words
