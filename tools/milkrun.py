"""The operator's commands: `python -m ops COMMAND --help`."""

import os
import sys

import typer

from ops import (
    cost,
    forget,
    preflight,
    reconcile,
    redrive,
    replay,
    set_aside,
    smoke,
    terminal,
    top,
    visits,
    where,
)
from tools import status
from tools.console import command as console
from tools.fleet import demo, send

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command("status")(status.command)
app.command("send")(send.command)
app.command("demo")(demo.command)
app.command("visits")(visits.command)
app.command("replay")(replay.command)
app.command("where")(where.command)
app.command("reconcile")(reconcile.command)
app.command("cost")(cost.command)
app.command("forget")(forget.command)
app.command("redrive")(redrive.command)
app.command("set-aside")(set_aside.command)
app.command("top")(top.command)
app.command("console")(console.command)
app.command("preflight")(preflight.command)
app.command("smoke")(smoke.command)
app.command("check-key")(smoke.check_key)


def main() -> int:
    """Run the command line; return its exit code."""
    return terminal.run(app, os.environ)


if __name__ == "__main__":
    sys.exit(main())
