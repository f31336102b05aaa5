"""Run dbt to build staging and marts from RAW."""

import subprocess
import sys
from collections.abc import Mapping

from cli.child_process import run_to_end
from ops import terminal
from ops.stage_outputs import ROOT


def build_marts(environment: Mapping[str, str], *arguments: str) -> bool:
    """Run `milkrun warehouse dbt build …`; return whether it succeeded.

    If it fails, the end of its output is shown.
    """
    command = [sys.executable, "-m", "snowpipe", "dbt", "build", *arguments]
    piped = subprocess.PIPE
    ran = run_to_end(command, env=dict(environment), cwd=ROOT, stdout=piped, stderr=piped)
    if ran.returncode != 0:
        terminal.err.print((ran.stdout + ran.stderr)[-4000:], markup=False)
        terminal.err.print("[red]dbt build failed[/], so the marts may be incomplete")
    return ran.returncode == 0
