"""Kill a job and all its processes with SIGKILL, and reap them."""

import ctypes
import os
import signal
import subprocess
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36


def kill_all(job: subprocess.Popen[bytes]) -> None:
    """Kill the process group that a job leads.

    This process becomes a subreaper, so that it also reaps the orphaned JVM.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-job.pid, 0)
