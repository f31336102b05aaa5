"""`python -m ops.console`: the console alone, without loading all other commands."""

import os
import sys

import typer

from ops import terminal
from ops.console.command import command
from ops.outputs import NoStackError
from snowpipe.refusal import Refusal

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(command)


def main() -> int:
    try:
        app(obj=os.environ, standalone_mode=True)
    except (NoStackError, Refusal) as problem:
        terminal.err.print(f"[red]{problem}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
