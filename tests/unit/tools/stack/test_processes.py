"""Test that a process is recognised by its id and start time, and that ending a process also ends its children."""

import errno
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tools.stack.processes import Process, Processes, descendants, memory, start_time


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path / "run", tmp_path / "logs")


def start(processes: Processes, code: str, grace_s: float = 0) -> Process:
    command = [sys.executable, "-u", "-c", code]
    return processes.start("trial", command, os.environ, Path("/"), grace_s)


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # it has ended; other tests may leave such children
        return []


def printed(processes: Processes, word: str) -> None:
    deadline = time.monotonic() + 10
    while word not in processes.log("trial").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_started_process_is_found_by_another_program_until_it_ends(processes, tmp_path):
    process = start(processes, "import time; time.sleep(60)")
    other = Processes(tmp_path / "run", tmp_path / "logs")
    assert other.alive("trial") == process
    other.end(process)
    assert not process.is_alive()
    assert other.recorded() == []


def test_process_whose_record_cannot_be_written_is_ended(processes, tmp_path, monkeypatch):
    def full(*_: object, **_options: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    code = "import time; time.sleep(61)"
    monkeypatch.setattr("tools.stack.processes.json", SimpleNamespace(dumps=full, loads=json.loads))
    with pytest.raises(OSError, match="No space left"):
        start(processes, code)
    assert code not in [word for child in psutil.Process().children() for word in command_of(child)]
    assert list((tmp_path / "run").iterdir()) == []


def test_process_with_a_reused_id_is_neither_recognised_nor_killed(processes):
    process = start(processes, "import time; time.sleep(60)")
    reused = replace(process, started=process.started - 100)
    assert not reused.is_alive()
    processes.end(reused)
    assert process.is_alive()
    processes.end(process)


def test_copy_of_a_stacks_folder_does_not_contain_the_originals_processes_but_a_moved_folder_does(
    processes, tmp_path
):
    process = start(processes, "import time; time.sleep(60)")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    Processes(tmp_path / "copy", tmp_path / "logs").end_all()
    assert process.is_alive()
    (tmp_path / "run").rename(tmp_path / "moved")
    Processes(tmp_path / "moved", tmp_path / "logs").end_all()
    assert not process.is_alive()


def test_zombie_process_counts_as_ended(processes):
    process = start(processes, "print('done')")
    printed(processes, "done")
    deadline = time.monotonic() + 10
    while process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert start_time(process.pid) is None
    assert processes.wait(process) == 0


def test_process_can_clean_up_within_its_grace_period_before_it_is_killed(processes, tmp_path):
    code = f"""
import pathlib, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready")
signal.sigwait([signal.SIGTERM])
pathlib.Path("{tmp_path}/tidy").touch()
"""
    process = start(processes, code, grace_s=10)
    printed(processes, "ready")
    processes.end(process)
    assert (tmp_path / "tidy").exists()


def test_process_that_ignores_sigterm_is_killed_with_its_children(processes):
    code = """
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"], start_new_session=True)
print("ready")
time.sleep(600)
"""
    process = start(processes, code, grace_s=0.2)
    printed(processes, "ready")
    [child] = descendants(process)
    processes.end(process)
    assert not process.is_alive()
    assert not child.is_alive()


def test_process_that_restarts_its_child_is_ended_before_the_child(processes):
    """LocalStack restarts its Kinesis mock when the mock ends. If the mock were ended first, the restarted one could
    outlive LocalStack.
    """
    code = """
import subprocess
while True:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("started", child.pid)
    child.wait()
"""
    process = start(processes, code)
    printed(processes, "started")
    [child] = descendants(process)
    # This name sorts before "trial", so ending the processes in the order of their names would end the child first.
    processes.adopt("a-child", child.pid)
    processes.end_all()
    assert not process.is_alive()
    assert processes.log("trial").read_text() == f"started {child.pid}\n"
    assert processes.recorded() == []


def test_record_that_is_deleted_while_the_records_are_listed_is_ignored(processes, tmp_path):
    process = start(processes, "import time; time.sleep(60)")
    (tmp_path / "run" / "gone.json").symlink_to(tmp_path / "deleted")
    assert processes.recorded() == [process]


def test_truncated_or_invalid_process_record_is_ignored(processes, tmp_path):
    process = start(processes, "import time; time.sleep(60)")
    (tmp_path / "run" / "other.json").write_text('{"name": "oth')
    (tmp_path / "run" / "strange.json").write_text(json.dumps({"no": "process"}))
    assert processes.recorded() == [process]
    processes.end_all()
    assert not process.is_alive()


def test_memory_of_a_process_is_measured_and_is_none_after_its_end(processes):
    process = start(processes, "hoard = bytearray(50 << 20); print('ready'); import time; time.sleep(60)")
    printed(processes, "ready")
    used = memory(process)
    processes.end(process)
    assert used is not None
    assert 50 << 10 < used.pss_kib <= used.rss_kib < 200 << 10
    assert memory(process) is None
