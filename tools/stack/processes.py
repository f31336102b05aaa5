"""The stack's processes, identified by process id and start time, because the operating system reuses process ids."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

KILLED_WITHIN_S = 10.0
SAME_START_S = 1.5  # the boot time is known only to the second


@dataclass(frozen=True)
class Process:
    name: str
    pid: int
    started: float  # seconds since boot, so that setting the clock changes nothing
    grace_s: float = 0  # from SIGTERM to SIGKILL

    def is_alive(self) -> bool:
        found = start_time(self.pid)
        return found is not None and abs(found - self.started) < SAME_START_S

    def is_suspended(self, besides: Sequence["Process"] = ()) -> bool:
        """Return whether the process, or any descendant that is not in `besides`, is suspended (SIGSTOP)."""
        others = {each.pid for each in besides}
        children = (each for each in descendants(self) if each.pid not in others)
        return any(_is_suspended(each.pid) for each in (self, *children))


def _is_suspended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def start_time(pid: int) -> float | None:
    """Return the start time of a process in seconds since boot; None if the process has ended."""
    try:
        found = psutil.Process(pid)
        if found.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return round(float(found.create_time() - psutil.boot_time()), 2)
    except psutil.NoSuchProcess:
        return None


class Processes:
    """The processes of one stack. Each process has a record in `folder` from its start until it is stopped on
    purpose.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs
        self._children: dict[Process, subprocess.Popen[bytes]] = {}  # those that this program started

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        directory: Path,
        grace_s: float = 0,
    ) -> Process:
        """Start a program in its own session, so that Ctrl-C does not reach the program, and record its process.

        Output goes to `<logs>/<name>.log`.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("wb") as output:
            popen = subprocess.Popen(
                command,
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(name, popen.pid, start_time(popen.pid) or 0, grace_s)
        self._children[process] = popen
        try:
            self._write(process)
        except BaseException:  # nobody could find a process without a record
            self.end(process)
            raise
        return process

    def adopt(self, name: str, pid: int) -> None:
        """Record a process that another process has started, such as LocalStack's Kinesis mock."""
        started = start_time(pid)
        if started is not None:
            self._write(Process(name, pid, started))

    def _write(self, process: Process) -> None:
        """Write the record of a process. It contains the file's inode, because a copy of the stack's folder must not
        end the original's processes.
        """
        with self._record(process.name).open("w") as file:
            record = {**asdict(process), "inode": os.fstat(file.fileno()).st_ino}
            file.write(json.dumps(record, allow_nan=False))

    def dead(self, name: str) -> Process | None:
        """Return the process with that name if it has died, that is, if it has ended without having been
        stopped on purpose; otherwise None.
        """
        return next((p for p in self.recorded() if p.name == name and not p.is_alive()), None)

    def wake(self) -> list[Process]:
        """Resume (SIGCONT) every process that is suspended (SIGSTOP); return these processes."""
        resumed = []
        for top in self.recorded():
            for process in [top, *descendants(top)] if top.is_alive() else ():
                if _is_suspended(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGCONT)
                        resumed.append(process)
        return resumed

    def wait(self, process: Process) -> int:
        """Wait for a process that this program started; return its exit status, which is negative if a signal
        ended the process.
        """
        return self._children[process].wait()

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def recorded(self) -> list[Process]:
        found = []
        for path in sorted(self._folder.glob("*.json")):
            # A record truncated by a full disk names no process, and `down` may delete records meanwhile.
            with contextlib.suppress(ValueError, TypeError, FileNotFoundError):
                record = json.loads(path.read_text())
                if record.pop("inode", None) in (None, path.stat().st_ino):
                    found.append(Process(**record))
        return found

    def alive(self, name: str) -> Process | None:
        return next((p for p in self.recorded() if p.name == name and p.is_alive()), None)

    def end(self, process: Process) -> None:
        """Stop a process and its descendants, and delete the process's record. If the process has a grace
        period, it first gets SIGTERM. Processes that are still running afterwards are killed.
        """
        family = descendants(process) if process.is_alive() else []
        if process.grace_s and process.is_alive():
            os.kill(process.pid, signal.SIGTERM)
            _await_end(process, process.grace_s)
        for each in [process, *family]:
            if each.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGKILL)
                _await_end(each, KILLED_WITHIN_S)
        if child := self._children.pop(process, None):
            child.wait()
        self._record(process.name).unlink(missing_ok=True)

    def end_all(self) -> None:
        """Stop all processes in the order of their names: LocalStack before Snowflake, because the end of
        LocalStack also ends Snowflake's long polls.

        A process that another recorded process has started is stopped last; otherwise LocalStack would
        restart its Kinesis mock.
        """
        recorded = self.recorded()
        started_by_others = {child.pid for process in recorded for child in descendants(process)}
        for process in sorted(recorded, key=lambda each: each.pid in started_by_others):
            self.end(process)

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _await_end(process: Process, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)


def descendants(process: Process) -> list[Process]:
    """Return the descendants of `process`: its child processes, their child processes, and so on."""
    try:
        found = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [
        Process(process.name, child.pid, started)
        for child in found
        if (started := start_time(child.pid)) is not None
    ]


@dataclass(frozen=True)
class Memory:
    """The memory that a process uses. `pss_kib` counts a page that n processes share as 1/n of a page, so
    sums are correct.

    On systems without PSS, `pss_kib` is the resident set size.
    """

    rss_kib: int
    pss_kib: int


def memory(process: Process) -> Memory | None:
    """Return the memory usage of a process; None if the process has ended or belongs to another user."""
    try:
        found = psutil.Process(process.pid).memory_full_info()
    except psutil.Error:
        return None
    return Memory(found.rss // 1024, getattr(found, "pss", found.rss) // 1024)


def description(process: Process) -> str:
    """Return the name of the Lambda function that the process runs, otherwise the process's command line
    without the folders in its paths.
    """
    try:
        found = psutil.Process(process.pid)
        function = found.environ().get("AWS_LAMBDA_FUNCTION_NAME")
        return function or " ".join(Path(word).name for word in found.cmdline() if word)
    except psutil.Error:
        return ""
