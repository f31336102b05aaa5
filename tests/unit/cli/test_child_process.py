"""Test that a program which handles Ctrl-C itself is not killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.child_process import run_to_end

PYTHON = (sys.executable, "-I", "-S", "-c")


def test_output_and_exit_code_of_a_program_are_returned() -> None:
    ended = run_to_end([*PYTHON, "print('said'); import sys; sys.exit(3)"], stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "said\n", None)


def test_program_ends_by_itself_after_ctrl_c(tmp_path: Path) -> None:
    program = "import os, sys, time; os.kill(os.getppid(), 2); time.sleep(0.4); open(sys.argv[1], 'w')"
    # A process that a shell starts in the background ignores SIGINT.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_to_end([*PYTHON, program, str(tmp_path / "queries-cancelled")])
    finally:
        signal.signal(signal.SIGINT, previous)
    assert (tmp_path / "queries-cancelled").exists()
