"""Test that the console starts and stops with the stack, and that a failure of the console does not affect
the stack.
"""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.polling import until
from tests.unit.ops.test_stage_outputs import FILE
from tests.unit.tools.console.test_server import Served
from tests.unit.tools.stack.test_stack import Trial, free_base
from tools.stack import cli, console, deploy, stack
from tools.stack.errors import StackError
from tools.stack.settings import Settings
from tools.stack.stack import Stack


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Yield a running stack whose two servers are stub programs. The endpoints in its outputs do not respond."""
    monkeypatch.setattr(
        stack, "SERVERS", {"localstack": Trial("localstack", 0), "snowflake": Trial("snowflake", 1)}
    )
    monkeypatch.setattr(stack, "INVENTORY_S", 0.2)  # the stub program accepts connections but never responds
    monkeypatch.setattr(deploy, "deploy_functions", lambda *_: None)
    monkeypatch.setattr(deploy, "apply_ddl", lambda *_: None)
    monkeypatch.setattr(deploy, "outputs", lambda of, *_: FILE | {"aws_endpoint_url": of.endpoint_url})
    base = next(base for base in iter(free_base, None) if console._is_free(base + 2))
    environment = {**os.environ, "MILKRUN_LOCAL": str(tmp_path / "stack"), "MILKRUN_PORT": str(base)}
    with Stack.of(environment) as made:
        yield made


def process(of: Stack) -> object:
    return of.processes.alive(console.NAME)


def test_console_starts_and_stops_with_the_stack(up):
    running = process(up)
    assert running is not None
    assert up.console() == up.settings.console_url
    assert process(up) == running
    assert console.is_ready(up.settings)
    up.down()
    assert not running.is_alive()
    assert not console.is_ready(up.settings)


def test_stack_survives_a_killed_console_and_milkrun_up_restarts_the_console(up):
    up.console()
    killed = process(up)
    os.kill(killed.pid, signal.SIGKILL)
    until(killed.is_alive, lambda alive: not alive, timeout_s=5)
    assert up.is_up()
    up.up()
    restarted = process(up)
    assert restarted is not None
    assert restarted.pid != killed.pid
    assert up.console()


def test_milkrun_up_succeeds_without_the_console_if_the_consoles_port_is_in_use(up, capsys):
    up.processes.end(process(up))
    environment = {"MILKRUN_LOCAL": str(up.settings.folder), "MILKRUN_PORT": str(up.settings.port)}
    with socket.create_server(("127.0.0.1", up.settings.console_port)):
        assert cli.main(["up"], {**os.environ, **environment}) == 0
        assert up.is_up()
        assert (
            f"The console is not running. Another program may be using port {up.settings.console_port}."
            in capsys.readouterr().err
        )
        with pytest.raises(StackError, match="Another program uses the console's port"):
            up.console()


@pytest.mark.parametrize(("stage", "is_ready"), [("local", True), ("dev", False)])
def test_console_of_a_deployed_stage_is_not_mistaken_for_the_local_stacks_console(stage, is_ready):
    served = Served(stage=stage, live_bus=False)
    try:
        assert console.is_ready(Settings.of({"MILKRUN_PORT": str(served.port - 2)})) is is_ready
    finally:
        served.end()


def test_starting_the_console_without_a_stack_fails_and_names_the_command_that_starts_the_stack(up):
    up.stop()
    with pytest.raises(StackError, match="make up"):
        up.console()


@pytest.mark.parametrize(
    ("is_up", "said"),
    [(True, "Interrupted.\n"), (False, "Interrupted. Everything that this command started has ended.\n")],
)
def test_interrupted_command_does_not_claim_that_a_running_console_has_ended(
    is_up, said, tmp_path, monkeypatch, capsys
):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Stack, "console", interrupted)
    if is_up:
        (tmp_path / "outputs.json").write_text("{}")
    assert cli.main(["console"], {"MILKRUN_LOCAL": str(tmp_path)}) == 130
    assert capsys.readouterr().err == said
