"""Does an app keep the client's rule?  `python -m milkrun_conformance --help`"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from milkrun_conformance.kit import Hook, HookError, play
from milkrun_conformance.scenarios import SCENARIOS
from milkrun_conformance.server import Stage, serving
from ops import terminal

PAYLOADS = Path(__file__).parent / "payloads"
SCHEMA = Path(__file__).parents[4] / "docs" / "event.schema.json"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Host = Annotated[str, typer.Option(help="Where to listen; the phone must reach it.")]


@app.command()
def run(
    target: Annotated[str, typer.Argument(help="URL of the app's test hook.")],
    *,
    scenario: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    host: Host = "127.0.0.1",
    port: int = 0,
    patience: Annotated[float, typer.Option(help="Seconds in which the app must have sent again.")] = 90,
    quiet: Annotated[float, typer.Option(help="Seconds in which it must then keep quiet.")] = 5,
    as_json: terminal.AsJson = False,
) -> None:
    """Play every scenario to an app; exit 0 if it keeps the rule, 1 if not, 2 if it cannot be reached.

    The hook is posted {"endpoint", "api_key", "events"} and answers 2xx once the app has them in its outbox.
    """
    if unknown := set(scenario or ()) - set(SCENARIOS):
        raise typer.BadParameter(f"{', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    stage = Stage()
    with serving(stage, host, port) as server:
        endpoint = f"http://{host}:{server.server_port}/v1/events"
        try:
            hook = Hook(target, endpoint)
            reports = play(stage, hook.hand_over, scenario or SCENARIOS, patience=patience, quiet=quiet)
        except HookError as problem:
            terminal.err.print(f"[red]{problem}")
            raise typer.Exit(2) from None
    if as_json:
        terminal.out.print_json(json.dumps(reports))
    else:
        for report in reports:
            mark = "[green]✔[/]" if report["ok"] else "[red]✘[/]"
            terminal.out.print(f"{mark} {report['scenario']:12} {report['plays']}: {report['wants']}")
            for fault in report["faults"]:
                terminal.out.print(f"    [red]{fault}")
    raise typer.Exit(0 if all(report["ok"] for report in reports) else 1)


@app.command()
def serve(*, host: Host = "127.0.0.1", port: int = 8400) -> None:
    """Serve for the app's own tests: PUT /scenario/<name>, POST /v1/events, GET /report."""
    with serving(Stage(), host, port) as server:
        terminal.err.print(f"http://{host}:{server.server_port}/v1/events; scenarios: {', '.join(SCENARIOS)}")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return


@app.command()
def payloads(folder: Annotated[Path, typer.Argument(help="Where to copy them to.")]) -> None:
    """Copy the golden payloads, good and bad, and the JSON Schema of an event."""
    shutil.copytree(PAYLOADS, folder, dirs_exist_ok=True)
    shutil.copy(SCHEMA, folder)


if __name__ == "__main__":
    sys.exit(app())
