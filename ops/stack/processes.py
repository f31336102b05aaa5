"""The stack's long-lived processes, known by number and start time, so that a number used again is never ours."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TERMINATE_S = 10.0


@dataclass(frozen=True)
class Process:
    name: str
    pid: int
    started: int  # clock ticks since boot, field 22 of /proc/<pid>/stat

    def is_alive(self) -> bool:
        return start_time(self.pid) == self.started


def start_time(pid: int) -> int | None:
    """None if there is no such process, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name, in brackets, may hold anything
    return None if state in "ZX" else int(fields[18])


def start(
    name: str, command: Sequence[str | Path], environment: Mapping[str, str], log: Path, records: Path
) -> Process:
    """Start in a session of its own, out of Ctrl-C's reach, and write down at once what was started."""
    records.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        popen = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = Process(name, popen.pid, start_time(popen.pid) or 0)
    (records / f"{name}.json").write_text(json.dumps(asdict(process)))
    return process


def recorded(records: Path) -> list[Process]:
    processes = []
    for path in sorted(records.glob("*.json")):
        # A record cut short by a full disk or a kill names nothing that could be ended.
        with contextlib.suppress(ValueError, TypeError):
            processes.append(Process(**json.loads(path.read_text())))
    return processes


def find(records: Path, name: str) -> Process | None:
    return next((p for p in recorded(records) if p.name == name and p.is_alive()), None)


def end(process: Process, records: Path) -> None:
    """Ask, wait, insist; the whole session goes, and the record with it."""
    if process.is_alive():
        os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + TERMINATE_S
        while process.is_alive() and time.monotonic() < deadline:
            _reap(process.pid)
            time.sleep(0.05)
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        while process.is_alive():
            _reap(process.pid)
            time.sleep(0.02)
    (records / f"{process.name}.json").unlink(missing_ok=True)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def descendants(pid: int) -> list[int]:
    """`pid` itself, its children and theirs."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found.extend(children.get(each, []))
    return found
