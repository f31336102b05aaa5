"""The stack's processes, identified by number and start time, because the system reuses numbers."""

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
SAME_START_S = 1.5  # the machine's start time is known to the second


@dataclass(frozen=True)
class Process:
    name: str
    pid: int
    started: float  # seconds after the machine's start, so that setting the clock changes nothing
    grace_s: float = 0  # from SIGTERM to SIGKILL

    def is_alive(self) -> bool:
        found = start_time(self.pid)
        return found is not None and abs(found - self.started) < SAME_START_S

    def is_stopped(self, besides: Sequence["Process"] = ()) -> bool:
        """Return whether the process, or a child process that is not in `besides`, is stopped (SIGSTOP)."""
        others = {each.pid for each in besides}
        children = (each for each in descendants(self) if each.pid not in others)
        return any(_is_stopped(each.pid) for each in (self, *children))


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def start_time(pid: int) -> float | None:
    """Return when a process began, in seconds after the machine's start; None if it has ended."""
    try:
        found = psutil.Process(pid)
        if found.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return round(float(found.create_time() - psutil.boot_time()), 2)
    except psutil.NoSuchProcess:
        return None


class Processes:
    """The processes of one stack, each with a record in `folder` while it runs."""

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
        """Start a program in its own session, so that Ctrl-C does not reach it.

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
        self._record(name).write_text(json.dumps(asdict(process), allow_nan=False))
        return process

    def adopt(self, name: str, pid: int) -> None:
        """Record a process that another one has started, such as LocalStack's Kinesis mock."""
        started = start_time(pid)
        if started is not None:
            self._record(name).write_text(json.dumps(asdict(Process(name, pid, started)), allow_nan=False))

    def dead(self, name: str) -> Process | None:
        """Return the process of that name if it was started, not ended on purpose, and has died."""
        return next((p for p in self.recorded() if p.name == name and not p.is_alive()), None)

    def wake(self) -> list[Process]:
        """Continue every process that was stopped by SIGSTOP; return these processes."""
        stopped = []
        for top in self.recorded():
            for process in [top, *descendants(top)] if top.is_alive() else ():
                if _is_stopped(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGCONT)
                        stopped.append(process)
        return stopped

    def wait(self, process: Process) -> int:
        """Return the exit status of a process that this program started, negative for a signal."""
        return self._children[process].wait()

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def recorded(self) -> list[Process]:
        found = []
        for path in sorted(self._folder.glob("*.json")):
            # A record truncated by a full disk names no process.
            with contextlib.suppress(ValueError, TypeError):
                found.append(Process(**json.loads(path.read_text())))
        return found

    def alive(self, name: str) -> Process | None:
        return next((p for p in self.recorded() if p.name == name and p.is_alive()), None)

    def end(self, process: Process) -> None:
        """Terminate a process and its descendants, kill them after the grace period, and delete the record."""
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
        """End all processes in the order of their names: AWS first, because this ends Snowflake's long polls.

        A process that another one has started comes last, because LocalStack starts its Kinesis mock again.
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
    """Return the descendants of `process`."""
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
    """Memory of a process. `pss_kib` counts a page that n processes share as 1/n, so sums are correct.

    On systems without PSS it is the resident size.
    """

    rss_kib: int
    pss_kib: int


def memory(process: Process) -> Memory | None:
    """Return the memory of a process; None if it has ended or belongs to another user."""
    try:
        found = psutil.Process(process.pid).memory_full_info()
    except psutil.Error:
        return None
    return Memory(found.rss // 1024, getattr(found, "pss", found.rss) // 1024)


def description(process: Process) -> str:
    """Return the Lambda function that the process runs, otherwise its command line without folders."""
    try:
        found = psutil.Process(process.pid)
        function = found.environ().get("AWS_LAMBDA_FUNCTION_NAME")
        return function or " ".join(Path(word).name for word in found.cmdline() if word)
    except psutil.Error:
        return ""
