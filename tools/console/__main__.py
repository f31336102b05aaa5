"""`python -m tools.console`: start the console without importing the modules of the other commands."""

import os
import sys

import typer

from ops import terminal
from tools.console.command import command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(command)


if __name__ == "__main__":
    sys.exit(terminal.run(app, os.environ))
