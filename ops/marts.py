"""Staging and marts, made of what is in RAW: dbt, as an operator would run it."""

import subprocess
import sys
from collections.abc import Mapping

from ops import terminal
from ops.outputs import ROOT


def build_marts(environment: Mapping[str, str], *arguments: str) -> bool:
    """`milkrun warehouse dbt build …`; what it says is shown only where it fails."""
    command = [sys.executable, "-m", "snowpipe", "dbt", "build", *arguments]
    ran = subprocess.run(
        command, env=dict(environment), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        terminal.err.print((ran.stdout + ran.stderr)[-4000:], markup=False)
        terminal.err.print("[red]dbt build failed[/]; the marts are not what they should be")
    return ran.returncode == 0
