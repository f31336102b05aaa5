"""kill -9 of a job with all that it started, and nothing left behind, not even as a zombie."""

import ctypes
import os
import signal
import subprocess
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36


def kill_all(job: subprocess.Popen[bytes]) -> None:
    """The job leads a process group of its own. Its JVM, once orphaned, becomes ours to bury."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-job.pid, 0)
