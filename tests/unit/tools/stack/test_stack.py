"""Test that the stack's commands repair the stack without losing data, report a problem in one line with its solution,
and leave nothing running after a failed start. Also test `milkrun logs`.
"""

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import psutil
import pytest

from ops.polling import until
from ops.stage_outputs import ROOT
from tools.stack import (
    cli,
    console,
    deploy,
    identity,
    localstack,
    logs,
    private_files,
    snowflake,
    stack,
    start_kcl_worker,
)
from tools.stack.errors import StackError
from tools.stack.settings import Settings
from tools.stack.stack import Stack


def free_base() -> int:
    """Return a port below the ephemeral range such that this port and the next one are free."""
    while True:
        base = random.randrange(20000, 30000, 2)
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", base))
            other.bind(("127.0.0.1", base + 1))
            return base


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "MILKRUN_LOCAL": str(tmp_path / "stack"), "MILKRUN_PORT": str(free_base())}


LISTENS = """
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(600)
"""


class Trial:
    """A server of the stack that runs a short stub program instead of LocalStack or Snowflake."""

    TITLE = "Trial"
    READY_S = 120.0

    def __init__(self, name: str, offset: int) -> None:
        self.name = name
        self.offset = offset
        self.code = LISTENS
        self.launched = 0

    def check_tools(self) -> None:
        pass

    def port(self, settings: Settings) -> int:
        return settings.port + self.offset

    def launch(self, settings: Settings, processes: object) -> object:
        self.launched += 1
        command = [sys.executable, "-c", self.code, str(self.port(settings))]
        return processes.start(self.name, command, os.environ, ROOT)

    def is_ready(self, settings: Settings) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port(settings))) == 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Replace the stack's two servers with stub programs; return the replacement of LocalStack."""
    trial = Trial("localstack", 0)
    monkeypatch.setattr(stack, "SERVERS", {"localstack": trial, "snowflake": Trial("snowflake", 1)})
    return trial


@pytest.fixture
def deploys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    monkeypatch.setattr(deploy, "deploy_functions", lambda *_: done.append("functions"))
    monkeypatch.setattr(deploy, "apply_ddl", lambda *_: done.append("warehouse"))
    monkeypatch.setattr(deploy, "outputs", lambda of, _: {"aws_endpoint_url": of.endpoint_url})
    monkeypatch.setattr(console, "launch", lambda *_: None)
    return done


@pytest.fixture
def trial_stack(environment: dict[str, str]) -> Iterator[Stack]:
    made = Stack.of(environment)
    yield made
    made.down()


def test_repeated_up_does_nothing_until_the_sources_change(trial_stack, server, deploys, monkeypatch):
    trial_stack.up()
    trial_stack.up()
    assert (server.launched, deploys) == (1, ["functions", "warehouse"])
    outputs = json.loads(trial_stack.settings.outputs_file.read_text())
    assert outputs == {"aws_endpoint_url": trial_stack.settings.endpoint_url}
    monkeypatch.setattr(deploy, "fingerprint", lambda _: "other")
    trial_stack.up()
    assert (server.launched, deploys) == (1, ["functions", "warehouse"] * 2)


def test_repeated_up_keeps_the_chosen_kind_of_credential(
    trial_stack: Stack, server: Trial, deploys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deploy_functions(settings: Settings, _: object, auth: identity.Auth) -> None:
        deploys.append(auth)
        if auth == "jwt":
            identity.publish_keys(settings, Mock())

    monkeypatch.setattr(deploy, "deploy_functions", deploy_functions)
    key_file = identity.issuer(trial_stack.settings).private_key_file
    trial_stack.up()
    assert (deploys, key_file.exists()) == (["key", "warehouse"], False)
    trial_stack.up(auth="jwt")
    first = key_file.read_bytes()
    assert key_file.stat().st_mode & 0o777 == 0o600
    trial_stack.up()
    assert deploys == ["key", "warehouse", "jwt", "warehouse"]
    trial_stack.stop()
    assert not key_file.exists()
    trial_stack.up(auth="jwt")
    assert key_file.read_bytes() != first


def test_failed_deployment_leaves_nothing_running_and_no_outputs(trial_stack, server, monkeypatch):
    def fail(*_: object) -> None:
        raise StackError("no")

    monkeypatch.setattr(deploy, "deploy_functions", fail)
    with pytest.raises(StackError, match=r"^no$"):
        trial_stack.up()
    assert trial_stack.processes.recorded() == []
    assert not server.is_ready(trial_stack.settings)
    assert not trial_stack.settings.outputs_file.exists()


def test_interrupted_up_leaves_nothing_running(trial_stack, server, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy, "deploy_functions", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trial_stack.up()
    assert trial_stack.processes.recorded() == []
    assert not server.is_ready(trial_stack.settings)


def test_up_ends_processes_that_were_left_running_by_an_up_command_that_was_killed(
    trial_stack, server, deploys
):
    # This is the state that an `up` leaves if it is killed before it writes outputs.json.
    left = server.launch(trial_stack.settings, trial_stack.processes)
    (trial_stack.settings.folder / ".lock").touch()  # every `up` creates it first
    trial_stack.up()
    assert not left.is_alive()
    assert server.launched == 2
    assert trial_stack.is_up()


def kill(of: Stack, *names: str) -> None:
    for name in names:
        os.kill(of.processes.alive(name).pid, signal.SIGKILL)
    until(lambda: any(map(of.processes.alive, names)), lambda alive: not alive, timeout_s=5)


def test_up_restarts_a_killed_snowflake_with_its_data_while_localstack_keeps_running(
    trial_stack, server, deploys
):
    trial_stack.up()
    held = trial_stack.settings.snowflake_folder / "rows"
    held.parent.mkdir(exist_ok=True)
    held.write_text("1")
    aws = trial_stack.processes.alive("localstack")
    outputs = trial_stack.settings.outputs_file.read_text()
    kill(trial_stack, "snowflake")
    assert not trial_stack.is_up()
    notes = trial_stack.up()
    assert trial_stack.is_up()
    assert notes == ["Trial had died and runs again with all its data."]
    assert trial_stack.processes.alive("localstack") == aws
    assert held.read_text() == "1"
    assert trial_stack.settings.outputs_file.read_text() == outputs
    assert deploys == ["functions", "warehouse"]


@pytest.mark.parametrize("dead", [["localstack"], ["localstack", "snowflake"], ["snowflake", "localstack"]])
def test_up_after_localstack_died_deletes_nothing_without_the_discard_option(
    environment, capsys, trial_stack, server, deploys, dead
):
    trial_stack.up()
    held = trial_stack.settings.snowflake_folder / "rows"
    held.parent.mkdir(exist_ok=True)
    held.write_text("1")
    kill(trial_stack, *dead)
    for _ in range(2):
        assert cli.main(["up"], environment) == 1
        [said] = [line for line in capsys.readouterr().err.splitlines() if "has died" in line]
        assert said.startswith("LocalStack has died")
        assert "milkrun up --discard" in said
        assert trial_stack.processes.alive("snowflake")  # so that the warehouse can be queried
    assert held.read_text() == "1"
    gone = trial_stack.up(discard=True)
    assert any("objects in S3" in line for line in gone)
    assert any("the warehouse" in line for line in gone)
    assert trial_stack.is_up()
    assert not held.exists()
    assert deploys == ["functions", "warehouse"] * 2


def test_killed_kinesis_mock_is_reported_even_if_localstack_still_runs(trial_stack, server, deploys):
    trial_stack.up()
    mock = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    trial_stack.processes.adopt("kinesis", mock.pid)
    assert trial_stack.up() == []
    mock.kill()
    mock.wait()
    with pytest.raises(StackError, match="the stream's records") as lost:
        trial_stack.up()
    assert lost.value.exit_code == 1
    trial_stack.up(discard=True)
    assert trial_stack.is_up()


@pytest.mark.parametrize("name", ["localstack", "snowflake"])
def test_up_resumes_a_suspended_process(trial_stack, server, deploys, name):
    trial_stack.up()
    before = trial_stack.processes.alive(name)
    os.kill(before.pid, signal.SIGSTOP)
    until(
        lambda: psutil.Process(before.pid).status(),
        lambda found: found == psutil.STATUS_STOPPED,
        timeout_s=5,
    )
    assert trial_stack.up() == [f"{name} (pid {before.pid}) was suspended and has been resumed."]
    assert psutil.Process(before.pid).status() != psutil.STATUS_STOPPED
    assert trial_stack.processes.alive(name) == before


def test_failed_repair_ends_only_the_processes_that_it_started(trial_stack, server, deploys, monkeypatch):
    trial_stack.up()
    aws = trial_stack.processes.alive("localstack")
    kill(trial_stack, "snowflake")
    monkeypatch.setattr(stack.SERVERS["snowflake"], "code", "import time; time.sleep(600)")
    monkeypatch.setattr(stack.SERVERS["snowflake"], "READY_S", 0.5)
    with pytest.raises(StackError, match="was not ready after"):
        trial_stack.up()
    assert trial_stack.processes.alive("snowflake") is None
    assert trial_stack.processes.alive("localstack") == aws
    assert trial_stack.settings.outputs_file.exists()


def test_missing_warehouse_files_are_reported_and_recreated(trial_stack, server, deploys):
    trial_stack.up()
    kill(trial_stack, "snowflake")
    shutil.rmtree(trial_stack.settings.snowflake_folder, ignore_errors=True)
    notes = trial_stack.up()
    assert any("backfill" in note for note in notes)
    assert not any("all its data" in note for note in notes)
    assert deploys.count("warehouse") == 2


def test_repair_of_one_server_leaves_the_other_unchanged(trial_stack, server, deploys):
    trial_stack.up()
    aws = trial_stack.processes.alive("localstack")
    kill(trial_stack, "snowflake")
    trial_stack.up(only="snowflake")
    assert trial_stack.processes.alive("localstack") == aws
    assert trial_stack.is_up()


def test_up_only_snowflake_with_discard_deletes_its_data_even_if_it_is_running(trial_stack, server, deploys):
    trial_stack.up()
    mark = trial_stack.settings.snowflake_folder / "rows"
    mark.parent.mkdir(exist_ok=True)
    mark.write_text("rows")
    before = trial_stack.processes.alive("snowflake")
    notes = trial_stack.up(only="snowflake", discard=True)
    assert not mark.exists()
    assert trial_stack.processes.alive("snowflake") not in (None, before)
    assert any(note.startswith("Deleted: the warehouse") for note in notes)


def test_endpoint_and_api_key_are_stable_and_unique_per_stack_folder(environment, tmp_path):
    def known(folder: Path) -> tuple[str, str]:
        found = Settings.of(environment | {"MILKRUN_LOCAL": str(folder)}).aws_environment
        return found["MILKRUN_API_ID"], found["MILKRUN_API_KEY"]

    assert known(tmp_path / "one") == known(tmp_path / "one")
    assert not set(known(tmp_path / "one")) & set(known(tmp_path / "two"))
    assert 20 <= len(known(tmp_path / "one")[1]) <= 128  # the length that API Gateway accepts for a key


@pytest.mark.parametrize("command", ["up", "console"])
def test_command_with_another_port_is_refused_and_does_not_end_the_running_stack(
    environment, capsys, trial_stack, server, deploys, command
):
    trial_stack.up()
    line = error_line(environment | {"MILKRUN_PORT": str(free_base())}, capsys, command)
    assert line.startswith(
        f"The stack in {trial_stack.settings.folder} runs on port {trial_stack.settings.port}"
    )
    assert f"MILKRUN_PORT={trial_stack.settings.port}" in line
    assert trial_stack.is_up()


def test_down_ignores_the_configured_port_and_up_can_move_a_dead_stack_to_another_port(
    environment, trial_stack, server, deploys
):
    trial_stack.up()
    Stack.of(environment | {"MILKRUN_PORT": str(free_base())}).down()
    assert not server.is_ready(trial_stack.settings)
    trial_stack.up()
    trial_stack.processes.end_all()  # outputs.json still names the port, but nothing listens there
    moved = Stack.of(environment | {"MILKRUN_PORT": str(free_base())})
    moved.up(discard=True)
    assert moved.is_up()


def test_stop_keeps_the_warehouse_and_down_deletes_everything(trial_stack, server, deploys):
    trial_stack.up()
    settings = trial_stack.settings
    for folder in (settings.snowflake_folder, settings.localstack_folder):
        folder.mkdir(exist_ok=True)
    trial_stack.stop()
    assert settings.snowflake_folder.exists()
    assert not settings.localstack_folder.exists()
    assert not settings.outputs_file.exists()
    trial_stack.down()
    assert not settings.folder.exists()


def test_down_in_a_copy_of_the_folder_neither_ends_the_originals_processes_nor_says_that_it_deleted_their_data(
    environment, trial_stack, server, deploys, tmp_path
):
    trial_stack.up()
    copy = Stack.of(environment | {"MILKRUN_LOCAL": str(tmp_path / "copy")})
    shutil.copytree(trial_stack.settings.folder, copy.settings.folder)
    assert copy.down() == []
    assert not copy.settings.folder.exists()
    assert trial_stack.is_up()


def test_inventory_ignores_a_file_that_the_running_warehouse_deletes_meanwhile(trial_stack, monkeypatch):
    folder = trial_stack.settings.snowflake_folder
    folder.mkdir(parents=True)
    (trial_stack.settings.folder / ".lock").touch()
    for name in ("milkrun.duckdb", "milkrun.duckdb.wal"):
        (folder / name).write_bytes(b"x" * 200_000)

    def is_file(path: Path) -> bool:
        if path.suffix == ".wal":
            path.unlink()
        return True

    monkeypatch.setattr(Path, "is_file", is_file)
    assert trial_stack.inventory() == ["Deleted: the warehouse, 0.2 MB."]


def test_interrupted_up_deletes_the_incomplete_warehouse(trial_stack, server, deploys, monkeypatch):
    def interrupt(*_: object) -> None:
        trial_stack.settings.snowflake_folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy, "apply_ddl", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trial_stack.up()
    assert not trial_stack.settings.snowflake_folder.exists()


def test_server_that_exits_during_startup_is_reported_with_its_log_file(trial_stack, server):
    server.code = "raise SystemExit('no licence')"
    with pytest.raises(StackError, match=r"Trial exited during startup; the reason is in .*localstack\.log"):
        trial_stack.up()
    assert "no licence" in trial_stack.processes.log("localstack").read_text()


def error_line(environment: dict[str, str], capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail; return the only line that it writes to standard error after its progress lines."""
    assert cli.main(arguments, environment) == 2
    *steps, line = capsys.readouterr().err.splitlines()
    assert all(step.endswith("…") for step in steps)
    return line


def test_server_that_starts_too_slowly_is_ended_and_reported_with_its_log_file(
    environment, capsys, server, monkeypatch
):
    """A slow disk is a typical cause of a slow start."""
    monkeypatch.setattr(server, "READY_S", 0.5)
    server.code = "import time; time.sleep(60)"
    line = error_line(environment, capsys, "up")
    assert line.startswith("Trial was not ready after 0.5 s; see ")
    assert line.endswith("localstack.log")
    assert Stack.of(environment).processes.recorded() == []


def test_port_in_use_is_reported_with_the_solution(environment, capsys, server):
    with socket.create_server(("127.0.0.1", int(environment["MILKRUN_PORT"]))):
        line = error_line(environment, capsys, "up")
    assert line.startswith(f"Another program uses Trial's port {environment['MILKRUN_PORT']}.")
    assert "MILKRUN_PORT=<base>" in line


def test_full_disk_is_reported_before_anything_starts(environment, capsys, server, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**12, 10**12, 3_000_000))
    assert error_line(environment, capsys, "up").startswith("Not enough free disk space: 3 MB free")
    assert server.launched == 0


@pytest.mark.parametrize("port", ["http", "80", "65530"])
def test_invalid_port_is_refused(environment, capsys, port):
    assert error_line(environment | {"MILKRUN_PORT": port}, capsys, "up").startswith(
        f"MILKRUN_PORT is '{port}'"
    )


def test_concurrent_second_command_on_the_same_stack_is_refused(environment, capsys, trial_stack):
    with trial_stack._alone():
        assert error_line(environment, capsys, "up").startswith("Another command is using this stack.")


def test_stack_cannot_be_started_while_down_deletes_its_files(environment, monkeypatch):
    made, refused = Stack.of(environment), []
    for name in ("logs", "snowflake"):
        (made.settings.folder / name).mkdir(parents=True)
    (made.settings.folder / ".lock").touch()
    (made.settings.folder / "warehouse-made").touch()
    remove = shutil.rmtree

    def removes(folder, **options):
        with (
            pytest.raises(StackError, match="Another command is using this stack"),
            Stack.of(environment)._alone(),
        ):
            pass
        refused.append(folder.name)
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", removes)
    made.down()
    assert {"logs", "snowflake"} <= {*refused}
    assert not made.settings.folder.exists()


def test_lock_file_that_down_deletes_before_it_is_locked_is_not_used(environment, monkeypatch):
    made, lock = Stack.of(environment), fcntl.flock

    def late(*arguments):
        (made.settings.folder / ".lock").unlink()
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(StackError, match="Another command is using this stack"), made._alone():
        pass


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (FileNotFoundError(), "LocalStack's Kinesis needs Node 20 or newer. Install it: apt install nodejs"),
        ("v18.19.0\n", "LocalStack's Kinesis needs Node 20 or newer; this is v18.19.0."),
    ],
)
def test_missing_or_old_node_is_reported(monkeypatch, answer, line):
    def run(*_: object, **__: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess([], 0, stdout=answer)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(StackError, match=line):
        localstack.check_tools()


@pytest.mark.parametrize(("address", "closed"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_localstack_listening_on_the_network_is_detected(address, closed):
    with socket.create_server((address, 0)) as gateway:
        assert localstack.is_reachable_from_the_network(gateway.getsockname()[1]) is not closed


def test_settings_of_other_aws_or_snowflake_accounts_do_not_reach_the_stack(environment):
    foreign = {"AWS_PROFILE": "prod", "AWS_ENDPOINT_URL": "https://elsewhere", "SNOWFLAKE_ACCOUNT": "prod"}
    settings = Settings.of(environment | foreign)
    for seen in (settings.environment, settings.aws_environment, localstack.environment(settings)):
        assert "AWS_PROFILE" not in seen
        assert "SNOWFLAKE_ACCOUNT" not in seen
    assert settings.aws_environment["AWS_ENDPOINT_URL"] == settings.endpoint_url


def test_two_stacks_share_no_port_or_folder(tmp_path):
    one, other = (
        Settings.of({"MILKRUN_LOCAL": str(tmp_path / name), "MILKRUN_PORT": port})
        for name, port in (("demo", "4566"), ("test", "4666"))
    )
    assert not set(one.external_ports) & set(other.external_ports)
    assert len({one.port, one.snowflake_port, other.port, other.snowflake_port}) == 4
    assert localstack.environment(one)["FILESYSTEM_ROOT"] != localstack.environment(other)["FILESYSTEM_ROOT"]
    assert snowflake.connection(one)["port"] == 4567


@contextlib.contextmanager
def log_files(environment: dict[str, str], **texts: str) -> Iterator[Settings]:
    settings = Settings.of(environment)
    settings.lambda_log_folder.mkdir(parents=True)
    for name, text in texts.items():
        folder = settings.log_folder if name in ("localstack", "deploy") else settings.lambda_log_folder
        (folder / f"{name.replace('_', '-')}.log").write_text(text)
    yield settings


def test_logs_command_shows_the_last_lines_of_each_function_and_server_with_its_name(environment, capsys):
    with log_files(environment, milkrun_local_ingest="a\nb\nc\n", localstack="Ready.\n", deploy="long\n"):
        assert cli.main(["logs", "-n", "2"], environment) == 0
    assert capsys.readouterr().out.splitlines() == [
        "milkrun-local-ingest b",
        "milkrun-local-ingest c",
        "localstack           Ready.",
    ]


def test_logs_command_shows_the_requested_number_of_lines_including_an_unfinished_last_line(
    environment, capsys, monkeypatch
):
    monkeypatch.setattr(logs, "TAIL_BYTES", 10)
    with log_files(environment, localstack="".join(f"line {n}\n" for n in range(20)) + "Killed"):
        assert cli.main(["logs", "-n", "15"], environment) == 0
    expected = [*(f"localstack line {n}" for n in range(6, 20)), "localstack Killed"]
    assert capsys.readouterr().out.splitlines() == expected


def test_logs_command_finds_a_functions_log_by_its_short_name(environment, capsys):
    with log_files(environment, milkrun_local_ingest="[ERROR] no\rTraceback\n", localstack="Ready.\n"):
        assert cli.main(["logs", "ingest"], environment) == 0
    assert capsys.readouterr().out.splitlines() == [
        "milkrun-local-ingest [ERROR] no",
        "milkrun-local-ingest Traceback",
    ]


def test_unknown_log_is_reported_with_the_names_of_the_existing_logs(environment, capsys):
    with log_files(environment, localstack="Ready.\n"):
        for names in (["ingets"], ["localstack", "ingets"]):
            line = error_line(environment, capsys, "logs", *names)
            assert line.endswith("Existing logs: localstack.")


def test_followed_log_shows_only_complete_lines_and_continues_after_a_rotation(environment):
    with log_files(environment, milkrun_local_ingest="old\nhal") as settings:
        [file] = logs.sources(settings, ["ingest"])
        tail = logs._Tail(file)
        assert tail.read() == ["old"]
        with file.open("a") as more:
            more.write("f\n")
        assert tail.read() == ["half"]
        with file.open("a") as more:
            more.write("last of the old\n")
        file.replace(file.with_suffix(".1.log"))
        file.write_text("first of the new\n")
        assert tail.read() == ["last of the old", "first of the new"]


def test_followed_log_continues_after_its_process_was_started_again(environment):
    with log_files(environment, localstack="a long line of the first process\nhalf") as settings:
        [file] = logs.sources(settings, ["localstack"])
        tail = logs._Tail(file)
        assert tail.read() == ["a long line of the first process"]
        file.write_text("Ready.\n")
        assert tail.read() == ["Ready."]


def test_followed_logs_include_those_of_a_function_that_runs_for_the_first_time(
    environment, capsys, monkeypatch
):
    with log_files(environment, localstack="Ready.\n", deploy="long\n") as settings:
        first_run = settings.lambda_log_folder / "milkrun-local-redrive.log"

        def sleep(_: float) -> None:
            if first_run.exists():
                raise KeyboardInterrupt
            first_run.write_text("a\nb\n")

        monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=sleep))
        assert cli.main(["logs", "--follow", "-n", "1"], environment) == 130
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["localstack", "Ready."],
        ["milkrun-local-redrive", "a"],
        ["milkrun-local-redrive", "b"],
    ]


def test_logs_command_with_0_lines_prints_no_existing_line(environment, capsys):
    with log_files(environment, localstack="a\nb\n"):
        assert cli.main(["logs", "-n", "0"], environment) == 0
    assert capsys.readouterr().out == ""


def test_empty_milkrun_local_variable_selects_the_default_folder():
    assert Settings.of({"MILKRUN_LOCAL": ""}).folder == ROOT / ".local"


@pytest.mark.parametrize("verb", ["up", "stop", "down", "console"])
def test_folder_with_unrelated_files_is_neither_used_nor_deleted(tmp_path, verb):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StackError, match="contains other files"):
        getattr(Stack.of({"MILKRUN_LOCAL": str(tmp_path)}), verb)()
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_clone_and_its_parent_folders_cannot_be_used_as_the_stack_folder(folder):
    with pytest.raises(StackError, match="contains other files"):
        # called directly, because a command would delete files in the folder if this check failed
        Stack.of({"MILKRUN_LOCAL": folder})._refuse_what_is_not_ours()


def test_clone_and_its_parent_folder_cannot_be_used_even_if_they_contain_a_lock_file(tmp_path, monkeypatch):
    """In any other folder, a lock file shows that an earlier `up` has created the files."""
    monkeypatch.setattr(stack, "ROOT", tmp_path / "clone")
    for folder in (tmp_path, tmp_path / "clone"):
        folder.mkdir(exist_ok=True)
        (folder / ".lock").touch()
        with pytest.raises(StackError, match="contains other files"):
            Stack.of({"MILKRUN_LOCAL": str(folder)})._refuse_what_is_not_ours()


def test_folder_with_files_from_commands_for_a_deployed_stage_can_be_used_as_the_stack_folder(tmp_path):
    (tmp_path / "replay").mkdir()
    Stack.of({"MILKRUN_LOCAL": str(tmp_path)})._refuse_what_is_not_ours()


def test_default_folder_with_files_of_other_make_targets_can_be_used_as_the_stack_folder(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tools.stack.stack.ROOT", tmp_path)
    (tmp_path / ".local" / "bench").mkdir(parents=True)  # as after `make bench` in a fresh clone
    Stack.of({"MILKRUN_LOCAL": str(tmp_path / ".local")})._refuse_what_is_not_ours()


def test_down_removes_only_the_stacks_own_files(trial_stack, server, deploys):
    trial_stack.up()
    folder = trial_stack.settings.folder
    mine = [folder / name for name in ("notes.txt", "run.sh", "logs-of-mine")]
    for path in mine:
        path.touch()
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (folder / "dbt").symlink_to(elsewhere)
    assert trial_stack.down()[-1] == (
        f"Kept in {folder}, because the stack did not create these files: logs-of-mine, notes.txt, run.sh"
    )
    assert sorted(folder.iterdir()) == sorted(mine)
    assert (elsewhere / "precious").exists()
    for path in mine:
        path.unlink()


def test_stack_folder_and_outputs_file_are_accessible_only_to_their_owner(trial_stack, server, deploys):
    trial_stack.settings.folder.mkdir(mode=0o755)
    trial_stack.up()
    assert trial_stack.settings.folder.stat().st_mode & 0o777 == 0o700
    assert trial_stack.settings.outputs_file.stat().st_mode & 0o777 == 0o600


def test_each_stack_has_its_own_private_warehouse_password(tmp_path):
    stacks = [Stack.of({"MILKRUN_LOCAL": str(tmp_path / name)}).settings for name in ("a", "b")]
    passwords = [snowflake.connection(settings)["password"] for settings in stacks]
    assert passwords == [snowflake.connection(settings)["password"] for settings in stacks]
    assert len({"milkrun", *passwords}) == 3
    assert snowflake.environment(stacks[0])["LOCAL_SNOWFLAKE_LOGIN"] == f"milkrun/{passwords[0]}"
    assert (stacks[0].snowflake_folder / "password").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rest", [0, 20], ids=["empty", "half"])
def test_incomplete_key_and_password_are_replaced_and_reported(
    trial_stack: Stack, server: Trial, deploys: list[str], rest: int
) -> None:
    key_file = identity.issuer(trial_stack.settings).private_key_file
    files = [key_file, snowflake.password_file(trial_stack.settings)]
    trial_stack.up()
    snowflake.password(trial_stack.settings)
    private_files.write(key_file, identity.new_key())
    assert trial_stack.up() == []
    for file in files:
        file.write_text(file.read_text()[:rest])
    with pytest.raises(StackError, match=r"incomplete.*milkrun up"):
        identity.Tokens(identity.issuer(trial_stack.settings))("truck-1")
    notes = trial_stack.up()
    assert [note for note in notes if "incomplete" in note] == [
        f"{file} was incomplete and was replaced." for file in files
    ]
    assert identity.Tokens(identity.issuer(trial_stack.settings))("truck-1")
    assert len(snowflake.password(trial_stack.settings)) == 32
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert deploys == ["functions", "warehouse"] * 3, (
        "one deployment with the API key, one with tokens, and one after the repair"
    )
    assert notes[-1].startswith("Trial had died"), "the process with the old password was replaced"


def test_interrupted_write_leaves_no_incomplete_secret_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "issuer.pem"
    private_files.write(file, "first")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            private_files.write(file, "second")
    assert file.read_text() == "first"
    private_files.write(file, "third")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("issuer.pem", "third")]


def test_second_down_removes_the_files_that_the_first_down_left(tmp_path, monkeypatch):
    stack = Stack.of({"MILKRUN_LOCAL": str(tmp_path / "stack")})
    (stack.settings.folder / "logs").mkdir(parents=True)
    (stack.settings.folder / ".lock").touch()
    remove = shutil.rmtree

    def leaves_some(folder, **options):
        remove(folder, **options)
        if folder == stack.settings.folder / "logs":
            folder.mkdir()

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", leaves_some)
        stack.down()
    stack.down()
    assert not stack.settings.folder.exists()


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("file/stack", "Not a directory"),
        ("circle/stack", "Too many levels of symbolic links"),
        ("a" * 300, "File name too long"),
        ("/proc/stack", ""),  # as in a read-only home
    ],
)
@pytest.mark.parametrize("command", ["up", "down"])
def test_stack_folder_that_cannot_be_created_is_reported_in_one_line(
    tmp_path, capsys, folder, reason, command
):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    environment = {**os.environ, "MILKRUN_LOCAL": str(tmp_path / folder), "MILKRUN_PORT": str(free_base())}
    code = cli.main([command], environment)
    said = capsys.readouterr().err
    assert (code, said.count("\n")) in {(2, 1), (0, 0)}, (
        said
    )  # `down` reports nothing if the folder does not exist
    if command == "up":
        assert reason in said
        assert folder[:20] in said


def test_kcl_worker_for_a_stack_whose_localstack_has_died_fails_with_one_line(environment):
    settings = Settings.of(environment)
    url = settings.endpoint_url
    outputs = {
        **dict.fromkeys(("bucket", "stream", "visits_table", "api_key"), "x"),
        **dict.fromkeys(("endpoint", "redrive_queue_url", "dead_letter_queue_url", "aws_endpoint_url"), url),
        "region": "us-east-1",
        "snowflake": {"account": "milkrun", "user": "milkrun", "password": "x", "database": "MILKRUN"},
    }
    settings.folder.mkdir()
    settings.outputs_file.write_text(json.dumps(outputs))
    with pytest.raises(SystemExit, match="Could not connect to the endpoint URL"):
        start_kcl_worker.main([], environment)


def test_kcl_worker_on_the_local_stack_ignores_the_callers_aws_settings_and_proxy():
    variables = {"VISITS_TABLE": "visits"}
    function = SimpleNamespace(
        get_function_configuration=lambda **_: {"Environment": {"Variables": variables}}
    )
    outputs = SimpleNamespace(
        aws=lambda _: function, stream="s", region="us-east-1", aws_endpoint_url="http://127.0.0.1:4566"
    )
    own = {
        "AWS_PROFILE": "no-such-profile",
        "AWS_ENDPOINT_URL_KINESIS": "http://127.0.0.1:9",
        "http_proxy": "http://p",
    }
    found = start_kcl_worker.environment_for(outputs, "local", own)
    assert {name for name in found if name in own} == {"http_proxy"}
    assert "127.0.0.1" in found["NO_PROXY"]
    assert found["AWS_CONFIG_FILE"] == os.devnull
    assert found["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"
    outputs.aws_endpoint_url = None
    assert start_kcl_worker.environment_for(outputs, "dev", own).items() >= own.items()


def test_brackets_in_a_folder_name_are_printed_and_not_treated_as_markup(tmp_path, capsys):
    (tmp_path / "[red]").mkdir()
    (tmp_path / "[red]" / "letter.txt").touch()
    line = error_line({**os.environ, "MILKRUN_LOCAL": str(tmp_path / "[red]")}, capsys, "up")
    assert "[red]" in line


@pytest.mark.parametrize("home", ["", "/sys/kernel", "/no/such/home"], ids=["none", "read-only", "missing"])
def test_stack_uses_its_own_home_directory_if_the_users_home_is_not_writable(environment, home):
    settings = Settings.of(environment | {"HOME": home})
    assert settings.environment["HOME"] == str(settings.folder / "home")


def test_writable_home_directory_is_passed_on_to_the_stacks_programs(environment, tmp_path):
    assert Settings.of(environment | {"HOME": str(tmp_path)}).environment["HOME"] == str(tmp_path)
