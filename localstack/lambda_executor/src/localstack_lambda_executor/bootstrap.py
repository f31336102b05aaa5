"""The entry point of a function's process. It runs under the functions' own Python interpreter, so it uses only
the standard library.

A function must not outlive LocalStack, even if LocalStack is killed. Linux sends the parent-death signal
(PR_SET_PDEATHSIG) when the *thread* that started the process ends, so `process.py` starts all function processes
from one thread that lives as long as LocalStack.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1


def exit_with(parent: int) -> None:
    """Wait until the parent process has exited, then exit, too. Used on systems without a parent-death signal."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    parent, handler = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=exit_with, args=[parent], daemon=True).start()
    if os.getppid() != parent:  # the parent had died before the signal was set
        sys.exit(1)
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]  # instead of this file's folder
    sys.argv = ["awslambdaric", handler]
    runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
