"""Run a program that handles Ctrl-C itself, such as dbt, which cancels its queries in Snowflake on Ctrl-C."""

import subprocess
from collections.abc import Sequence
from typing import Any


def run_to_end(command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program like `subprocess.run`. After Ctrl-C, wait until the program ends, then raise KeyboardInterrupt.

    `subprocess.run` would kill the program a quarter of a second after Ctrl-C.
    """
    interrupted: KeyboardInterrupt | None = None
    with subprocess.Popen(command, text=True, **options) as process:  # noqa: S603 - our own programs
        while True:
            try:
                said, complained = process.communicate()
                break
            except KeyboardInterrupt as error:
                interrupted = error
    if interrupted:
        raise interrupted
    return subprocess.CompletedProcess(command, process.returncode, said, complained)
