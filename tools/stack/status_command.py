"""`milkrun status`: show whether a stage is healthy; for the local stack, also check its processes and its disk.

The checks of any stage are in `ops/status_checks.py`, and `ops/status_layout.py` prints their findings.
"""

from collections.abc import Mapping

import typer

from ops import status_findings, status_layout, terminal
from ops.stage_outputs import NoStackError, Outputs
from ops.status_checks import findings_of
from ops.status_findings import Finding
from tools.stack.local_status import laptop_source


def command(
    context: typer.Context,
    *,
    stage: terminal.Stage = "local",
    watch: status_layout.Watch = False,
    wide: status_layout.AsWide = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Show whether a stage is healthy and, if it is not, what is wrong and what to do next.

    Exit codes: 0 (OK), 1 (WARN), 2 (FAIL).
    """
    environment: Mapping[str, str] = context.obj
    local = [laptop_source(environment)] if stage == "local" else []

    was_found = stage == "local"

    def look() -> list[Finding]:
        nonlocal was_found
        try:
            outputs = Outputs.find(stage, environment)
        except NoStackError as problem:
            if not was_found:  # otherwise --watch continues, for example while the network is down
                raise
            command = "milkrun up" if stage == "local" else ""
            return [Finding("stack", "FAIL", str(problem), None, command), *status_findings.ask(local)]
        was_found = True
        return findings_of(outputs, stage, local)

    raise typer.Exit(status_layout.report(look, stage, as_json=as_json, wide=wide, watch=watch))
