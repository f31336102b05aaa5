"""The operating-system process of a function, with its Runtime API and its output."""

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from localstack_lambda_executor.runtime_api import RuntimeApi

BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
PUNCH_HOLE_KEEP_SIZE = 0x03
MAX_LOG_BYTES = 1024 * 1024  # per invocation

# One thread starts all function processes, because the kernel kills them when the thread that started them ends.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lambda-process-starter")

_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Function:
    """A function version to run. `python` is an interpreter that has awslambdaric installed."""

    handler: str
    code: Path
    timeout_s: float
    memory_mb: int
    version: str
    environment: Mapping[str, str]
    python: Path


class Process:
    def __init__(self, function: Function, folder: Path) -> None:
        self.api = RuntimeApi()
        self.started_at = time.monotonic()
        # Use a file instead of a pipe, so that all earlier output is in it when a response arrives, and a function that
        # prints endlessly blocks nothing. Append mode makes it safe to truncate the file at any time.
        self._output = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 closed by `end`
        flags = fcntl.fcntl(self._output, fcntl.F_GETFL)
        fcntl.fcntl(self._output, fcntl.F_SETFL, flags | os.O_APPEND)
        self._popen = _starter.submit(
            lambda: subprocess.Popen(
                [function.python, BOOTSTRAP, str(os.getpid()), function.handler],
                cwd=function.code,
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin",
                    "LANG": "en_US.UTF-8",
                    **function.environment,
                    "TMPDIR": str(folder),
                    "LAMBDA_TASK_ROOT": str(function.code),
                    "AWS_LAMBDA_RUNTIME_API": self.api.address,
                },
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ).result()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def exit_status(self) -> int | None:
        """Return the process's exit status (negative if a signal ended it), or None while the process is running."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        # WNOWAIT keeps the zombie, so that its process id is not reused before `kill` ends the whole group.
        with contextlib.suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return None
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self._popen.wait()

    def kill(self) -> None:
        """Kill the function's process and its children."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()

    def end(self) -> None:
        self.kill()
        self.api.close()
        self._output.close()

    def memory_mb(self) -> int:
        return self._memory("VmRSS:")

    def peak_memory_mb(self) -> int:
        return self._memory("VmHWM:")

    def _memory(self, field: str) -> int:
        """Return the process's resident memory in MB: the current value if `field` is `VmRSS:`, the peak if it is
        `VmHWM:`. Return 0 after the process has ended, and on systems without /proc.
        """
        with contextlib.suppress(OSError):
            if sys.platform == "linux":
                for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                    if line.startswith(field):
                        return int(line.split()[1]) // 1024
        return 0

    def take_output(self) -> str:
        """Return and remove the output since the last call. If it exceeds MAX_LOG_BYTES, a note replaces its middle."""
        file, half = self._output.fileno(), MAX_LOG_BYTES // 2
        size = os.fstat(file).st_size
        if size <= MAX_LOG_BYTES:
            output = os.pread(file, MAX_LOG_BYTES, 0)
        else:
            dropped = f"\n[{size - 2 * half} bytes dropped here]\n".encode()
            output = os.pread(file, half, 0) + dropped + os.pread(file, half, size - half)
        os.ftruncate(file, 0)
        return output.decode(errors="replace")

    def bound_output(self) -> None:
        """Free the disk space that the middle of a very long log uses; `take_output` drops the middle anyway."""
        file, half = self._output.fileno(), MAX_LOG_BYTES // 2
        size = os.fstat(file).st_size
        if size > 16 * MAX_LOG_BYTES and sys.platform == "linux":
            # Punch a hole instead of truncating, because the process may be writing at the same time.
            _libc.fallocate(file, PUNCH_HOLE_KEEP_SIZE, ctypes.c_int64(half), ctypes.c_int64(size - 2 * half))
