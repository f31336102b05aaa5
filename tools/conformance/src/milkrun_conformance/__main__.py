"""Test whether an app that posts events to Milkrun follows the rule for clients."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from milkrun_conformance.kit import Hook, HookError, play
from milkrun_conformance.scenarios import SCENARIOS
from milkrun_conformance.server import Report, Stage, serving

PAYLOADS = Path(__file__).parent / "payloads"
SCHEMA = Path(__file__).parent / "event.schema.json"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Host = Annotated[
    str, typer.Option(help="Address to listen on; for an app on a phone, one that the phone can reach.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 selects a free one.")]


@app.command()
def run(
    target: Annotated[str, typer.Argument(help="URL of the app's test hook.")],
    *,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Run only this scenario. Can be repeated.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout", "--patience", help="Timeout in seconds for the app to do what a scenario requires."
        ),
    ] = 90,
    quiet: Annotated[
        float,
        typer.Option(help="Seconds to wait for late violations of the rule at the end of each scenario."),
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
) -> None:
    """Run the scenarios against an app, and report whether it follows the rule for clients.

    The hook receives a POST of {"endpoint", "api_key", "events"} and answers 2xx once the events are in the
    outbox. Exit codes: 0 if the app follows the rule, 1 if it does not, 2 if the kit cannot run, for example because
    the hook cannot be reached or returns an error.
    """
    if unknown := set(scenario or ()) - set(SCENARIOS):
        raise typer.BadParameter(
            f"unknown scenario {', '.join(sorted(unknown))}; choose from {', '.join(SCENARIOS)}"
        )
    stage, reports, problem = Stage(), list[Report](), ""
    with _serving(stage, host, port) as url:
        hook = Hook(target, f"{url}/v1/events")
        try:
            for name in scenario or SCENARIOS:
                reports += play(stage, hook.hand_over, [name], timeout_s=timeout_s, quiet=quiet)
                if not as_json:
                    _print_report(reports[-1])
        except HookError as error:
            problem = str(error)
    if as_json and reports:
        typer.echo(json.dumps(reports, indent=2, allow_nan=False))
    if problem:
        _fail(problem)
    raise typer.Exit(0 if all(report["ok"] for report in reports) else 1)


@app.command()
def serve(*, host: Host = "127.0.0.1", port: Port = 8400) -> None:
    """Run only the server, for the app's own tests. Routes: PUT /scenario/<name>, POST /v1/events, GET /report."""
    with _serving(Stage(), host, port) as url:
        err.print(f"Send events to {url}/v1/events. Scenarios: {', '.join(SCENARIOS)}")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return


@app.command()
def payloads(folder: Annotated[Path, typer.Argument(help="Folder to copy to.")]) -> None:
    """Copy sample request bodies, valid and invalid, and the JSON Schema of an event."""
    try:
        shutil.copytree(PAYLOADS, folder, dirs_exist_ok=True)
        shutil.copy(SCHEMA, folder)
    except OSError as error:
        _fail(f"Cannot copy to {folder}: {error.strerror or error}")


@contextmanager
def _serving(stage: Stage, host: str, port: int) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            url = stack.enter_context(serving(stage, host, port))
        except OSError as error:
            _fail(f"Cannot listen on {host}:{port}: {error.strerror or error}. Use another --host or --port.")
        yield url


def _print_report(report: Report) -> None:
    mark = Text("✔ ", "green") if report["ok"] else Text("✘ ", "red")
    out.print(mark + Text(f"{report['scenario']:12} {report['plays']}: {report['wants']}"))
    for fault in report["faults"]:
        out.print(Text(f"    violation: {fault}", "red"))


def _fail(problem: str) -> NoReturn:
    err.print(Text(problem, "red"))
    raise typer.Exit(2)


if __name__ == "__main__":
    sys.exit(app())
