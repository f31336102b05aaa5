"""First code of a function's process; runs in the Lambda interpreter, so standard library only.

A function must not outlive LocalStack, however that ends. Linux sends PR_SET_PDEATHSIG when the *thread* that
started the process ends, so `sandbox` starts all of them from one thread that lives as long as LocalStack
does.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Where no system call ties a process to its parent: look once a second."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    parent, handler = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=end_with, args=[parent], daemon=True).start()
    if os.getppid() != parent:  # it died before the line above took hold
        sys.exit(1)
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]  # was this file's folder
    sys.argv = ["awslambdaric", handler]
    runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
