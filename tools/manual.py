"""docs/operating.md, made of the commands' own help: `python -m tools.manual > docs/operating.md`."""

import sys

import typer
from typer.cli import get_docs_for_click

from tools.milkrun import app

NAME = "python -m ops"


def text() -> str:
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name=NAME)
    return get_docs_for_click(obj=command, ctx=context, name=NAME, title="Operating").strip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
