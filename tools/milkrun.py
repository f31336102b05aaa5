"""The command line of Milkrun: commands for the local stack, for operators and for the warehouse.

A command's module is imported only when that command runs or its arguments are completed. `milkrun --help`
and the completion of command names import none of the modules.
"""

import importlib
import os
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cli import command_errors
from cli.environment import restart_if_needed

LOCAL, OPERATE, WAREHOUSE = "Local stack", "Operate a stage", "Warehouse"


@dataclass(frozen=True)
class Entry:
    """A command: the location of its function or Typer app, and the first paragraph of its help."""

    name: str
    at: str  # module:attribute
    panel: str
    help: str = ""
    hidden: bool = False


ENTRIES = (
    Entry(
        "up",
        "tools.stack.cli:up",
        LOCAL,
        "Start or repair the local stack, and deploy everything that has changed.",
    ),
    Entry("down", "tools.stack.cli:down", LOCAL, "Stop the local stack and delete its data."),
    Entry(
        "stop",
        "tools.stack.cli:stop",
        LOCAL,
        "Stop the local stack. Only the data of the local Snowflake is kept.",
    ),
    Entry(
        "logs",
        "tools.stack.cli:logs",
        LOCAL,
        "Print the logs of the functions, LocalStack, Snowflake and the console.",
    ),
    Entry(
        "token",
        "tools.stack.cli:token",
        LOCAL,
        "Print a token for a device. The local stack must require tokens (milkrun up --auth jwt).",
    ),
    Entry(
        "demo",
        "tools.fleet.demo:command",
        LOCAL,
        "Start the local stack, send a morning of sample traffic (or a file), and check the counts in all stores.",
    ),
    Entry(
        "console",
        "tools.console.command:command",
        LOCAL,
        "Serve the web console, which shows trucks on a map, the pipeline, events and visits.",
    ),
    Entry(
        "simulate",
        "tools.outage_simulation.__main__:command",
        LOCAL,
        "Simulate an outage of Kinesis, and one of Snowpipe, at 1k, 100k and 1M events per second.",
    ),
    Entry(
        "status",
        "tools.stack.status_command:command",
        OPERATE,
        "Show whether a stage is healthy and, if it is not, what is wrong and what to do next.",
    ),
    Entry(
        "send",
        "tools.fleet.send:command",
        OPERATE,
        "Send sample traffic: one morning (default), continuous load, or a file.",
    ),
    Entry(
        "trace",
        "ops.trace:command",
        OPERATE,
        "Show where an event, object or request is, and every step on its way, in time order.",
    ),
    Entry(
        "reconcile",
        "ops.reconcile:command",
        OPERATE,
        "Compare accepted, archived, loaded and consumed events, and list the differences.",
    ),
    Entry(
        "replay",
        "ops.replay:command",
        OPERATE,
        "Send archived or quarantined geofence events, or discarded batches, to the consumer again.",
    ),
    Entry(
        "rejects",
        "ops.rejects_commands:app",
        OPERATE,
        "List, show, repair or delete rejected events.",
    ),
    Entry(
        "quarantine",
        "ops.quarantine:app",
        OPERATE,
        "List, show, send again or delete quarantined records, which could not be processed.",
    ),
    Entry(
        "redrive",
        "ops.redrive:app",
        OPERATE,
        "List, show, send again or delete the claim checks in the dead-letter queue.",
    ),
    Entry(
        "visits",
        "ops.visits:command",
        OPERATE,
        "List the visits of a device, or the devices that are at a fence now.",
    ),
    Entry(
        "report",
        "ops.daily_report:command",
        OPERATE,
        "Write a report on one day of the fleet: collections, litres, visits, missing exits and silent trucks.",
    ),
    Entry(
        "move-visits",
        "ops.move_visits:command",
        OPERATE,
        "Migrate the visits table to the current item layout after an upgrade (docs/upgrade.md).",
    ),
    Entry(
        "forget",
        "ops.forget:command",
        OPERATE,
        "Delete all data of a person or a device. The command can be interrupted and repeated.",
    ),
    Entry(
        "cost",
        "ops.cost:command",
        OPERATE,
        "Estimate the monthly cost of a load at list prices, by component, and compare alternatives.",
    ),
    Entry("smoke", "ops.smoke:command", OPERATE, "Post one event to a stage and follow it to the warehouse."),
    Entry(
        "preflight",
        "ops.preflight:command",
        OPERATE,
        "Find reasons why the deployment of a stage would fail, without creating anything.",
    ),
    Entry(
        "verify",
        "tools.verify:command",
        OPERATE,
        "Run the end-to-end tests against a stage, and delete the data that they created.",
    ),
    Entry(
        "check-key",
        "ops.smoke:check_key",
        OPERATE,
        "Print the SQL that creates the Snowflake user for the pipe check.",
    ),
    Entry("warehouse", "snowpipe.cli:app", WAREHOUSE, "Set up, load, check and query the warehouse."),
    # Former names of commands, which still work.
    Entry("where", "ops.trace:command", OPERATE, hidden=True),
    Entry("set-aside", "ops.quarantine:app", OPERATE, hidden=True),
    Entry("top", "tools.stack.status_command:command", OPERATE, hidden=True),
)


class Deferred(TyperCommand):
    """A command that has only a name and a help text until its module is imported."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(
            entry.name,
            help=entry.help,
            rich_help_panel=entry.panel,
            hidden=entry.hidden,
            add_help_option=False,
        )
        self._at = entry.at

    def load(self) -> TyperCommand | TyperGroup:
        """Import the command's module and return the command."""
        module, _, attribute = self._at.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(self.name)(found)
            found = alone
        command = typer.main.get_command(found)
        assert isinstance(command, TyperCommand | TyperGroup)
        command.name, command.hidden = self.name, self.hidden
        return command


class LazyGroup(TyperGroup):
    """A command group that imports a command's module only when the command is invoked or its arguments are
    completed.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {entry.name: Deferred(entry) for entry in ENTRIES}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Deferred) else command, rest

    def load_all(self) -> None:
        """Replace each deferred command with the actual command, for a page that documents all commands."""
        self.commands = {n: c.load() if isinstance(c, Deferred) else c for n, c in self.commands.items()}


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"milkrun {version('milkrun')}")
        raise typer.Exit


@app.callback()
def root(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Run and operate Milkrun: the local stack, a deployed stage and the warehouse."""


def loaded() -> LazyGroup:
    """Return the command group with every command's module imported."""
    group = typer.main.get_command(app)
    if not isinstance(group, LazyGroup):
        raise TypeError(group)
    group.load_all()
    return group


def main() -> int:
    """Run the CLI with `sys.argv`; return the exit code."""
    restart_if_needed()
    return command_errors.run(app, sys.argv[1:], obj=os.environ, environment=os.environ, tell=complain)


def complain(line: str) -> None:
    """Print a line in red on stderr."""
    typer.secho(line, err=True, fg="red")


if __name__ == "__main__":
    sys.exit(main())
