"""Test that a function that runs as a process returns the same results and writes the same logs as on Lambda."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ARN = "arn:aws:lambda:us-east-1:000000000000:function:trial"


def body(outcome: Any) -> Any:
    return json.loads(outcome.body)


def runs(pid: int) -> bool:
    """Return whether a process is running. A zombie, whose parent has not waited for it, is not running."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"  # the name in brackets may contain a ")"


def children(pid: int) -> list[int]:
    """Return the ids of a process's child processes."""
    return [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]


def gone(pid: int, within_s: float = 5) -> bool:
    deadline = time.monotonic() + within_s
    while runs(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_invocation_returns_the_response_and_a_log_in_lambdas_format(trial):
    function = trial(
        """
        import logging
        print("while importing")
        def handler(request, context):
            print("hello")
            logging.getLogger().warning("careful")
            return {"got": request, "id": context.aws_request_id, "arn": context.invoked_function_arn}
        """
    )
    outcome = function.invoke(b'{"a": "\xc3\xa9"}', request_id="r-1")
    assert not outcome.is_error
    assert body(outcome) == {
        "got": {"a": "é"},
        "id": "r-1",
        "arn": "arn:aws:lambda:us-east-1:000000000000:function:trial",
    }
    lines = outcome.log.as_text().splitlines()
    assert lines[0] == "START RequestId: r-1 Version: $LATEST"
    assert lines[1:3] == ["while importing", "hello"]
    assert re.fullmatch(r"\[WARNING\]\t\S+Z\tr-1\tcareful", lines[3])
    assert lines[4] == "END RequestId: r-1"
    assert re.fullmatch(
        r"REPORT RequestId: r-1\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\tMemory Size: 512 MB\t"
        r"Max Memory Used: \d+ MB\tInit Duration: [\d.]+ ms",
        lines[5],
    )


def test_second_request_reuses_the_process_and_its_log_omits_the_first_request(trial):
    function = trial(
        """
        import os
        def handler(request, context):
            print("request", request["n"])
            return os.getpid()
        """
    )
    first, second = function.invoke(b'{"n": 1}'), function.invoke(b'{"n": 2}')
    assert body(first) == body(second)
    assert "request 1" in first.log.as_text()
    assert "request 1" not in second.log.as_text()
    assert "request 2" in second.log.as_text()
    assert "Init Duration" not in second.log.as_text()


def test_function_inherits_no_environment_variable_from_localstack(trial, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_MACHINE", "x")
    function = trial(
        """
        import os, sys
        def handler(request, context):
            return {"environment": dict(os.environ), "path": sys.path, "argv": sys.argv, "cwd": os.getcwd()}
        """,
        environment={"STAGE": "local", "TZ": ":UTC"},
    )
    seen = body(function.invoke())
    code = str(function.execution_environment.function.code)
    assert seen["environment"]["STAGE"] == "local"
    assert seen["environment"]["LAMBDA_TASK_ROOT"] == code == seen["cwd"] == seen["path"][0]
    assert "SECRET_OF_THE_MACHINE" not in seen["environment"]
    assert "PYTHONPATH" not in seen["environment"]
    assert not any("lambda_executor" in folder or "/.venv/" in folder for folder in seen["path"])


def test_function_cannot_import_packages_of_localstack_or_the_project(trial):
    function = trial(
        """
        import importlib.util
        def handler(request, context):
            return [n for n in request if importlib.util.find_spec(n)]
        """
    )
    found = body(
        function.invoke(
            b'["boto3", "awslambdaric", "localstack", "moto", "requests", "pydantic", "contract"]'
        )
    )
    assert found == ["boto3", "awslambdaric"]


def test_exception_is_returned_with_its_stack_trace_and_does_not_end_the_process(trial):
    function = trial(
        """
        import os
        def handler(request, context):
            if request.get("fail"):
                raise ValueError("no such farm")
            return os.getpid()
        """
    )
    before = body(function.invoke())
    outcome = function.invoke(b'{"fail": true}', request_id="r-2")
    assert outcome.is_error
    error = body(outcome)
    assert (error["errorType"], error["errorMessage"], error["requestId"]) == (
        "ValueError",
        "no such farm",
        "r-2",
    )
    assert "raise ValueError" in error["stackTrace"][0]
    assert "[ERROR] ValueError: no such farm" in outcome.log.as_text()
    assert outcome.log.as_text().rstrip().endswith("Status: error\tError Type: ValueError")
    assert body(function.invoke()) == before


def test_process_of_a_function_that_exceeds_its_timeout_is_killed_and_replaced(trial):
    function = trial(
        """
        import os, time
        def handler(request, context):
            print("pid", os.getpid(), "left", context.get_remaining_time_in_millis())
            while request.get("hang"):
                pass
            return os.getpid()
        """,
        timeout_s=1,
    )
    before = body(function.invoke())
    began = time.monotonic()
    outcome = function.invoke(b'{"hang": true}', request_id="r-3")
    assert 0.9 < time.monotonic() - began < 3
    assert outcome.is_error
    assert body(outcome) == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": "RequestId: r-3 Error: Task timed out after 1.00 seconds",
    }
    assert f"pid {before} left" in outcome.log.as_text()
    assert "r-3 Task timed out after 1.00 seconds" in outcome.log.as_text()
    assert outcome.log.as_text().rstrip().endswith("Status: timeout")
    assert gone(before)
    again = function.invoke(b"{}", request_id="r-4")
    assert body(again) != before
    assert "r-3" not in again.log.as_text()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("os._exit(3)", "Runtime exited with error: exit status 3"),
        ("sys.exit(7)", "Runtime exited with error: exit status 7"),
        ("sys.exit()", "Runtime exited without providing a reason"),
        ("os.kill(os.getpid(), 9)", "Runtime exited with error: signal: killed"),
        ("os.kill(os.getpid(), 11)", "Runtime exited with error: signal: segmentation fault"),
    ],
)
def test_process_exit_during_a_request_is_returned_as_a_runtime_exit_error(trial, statement, reason):
    function = trial(
        f"""
        import os, sys
        def handler(request, context):
            if request:
                print("last words")
                {statement}
            return "well"
        """
    )
    outcome = function.invoke(b'{"end": true}', request_id="r-5")
    assert outcome.is_error
    assert body(outcome) == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: r-5 Error: {reason}",
    }
    assert "last words" in outcome.log.as_text()
    assert f"RequestId: r-5 Error: {reason}" in outcome.log.as_text()
    assert outcome.log.as_text().rstrip().endswith("Status: error\tError Type: Runtime.ExitError")
    assert body(function.invoke()) == "well"


def test_next_request_succeeds_after_the_idle_process_has_died(trial):
    function = trial(
        """
        import os, threading, time
        def handler(request, context):
            if request:
                threading.Thread(target=lambda: (time.sleep(0.3), os._exit(1))).start()
            return os.getpid()
        """
    )
    first = body(function.invoke(b"[1]"))
    assert gone(first)
    second = function.invoke()
    assert not second.is_error
    assert body(second) != first


def test_function_that_exceeds_its_memory_size_is_killed_with_an_out_of_memory_error(trial):
    function = trial(
        """
        import os, time
        def handler(request, context):
            if request:
                hoard = [bytearray(1 << 20) for _ in range(200)]
                time.sleep(2)
            return os.getpid()
        """,
        memory_mb=128,
    )
    before = body(function.invoke())
    outcome = function.invoke(b"[1]", request_id="r-6")
    assert body(outcome) == {
        "errorType": "Runtime.OutOfMemory",
        "errorMessage": "RequestId: r-6 Error: Runtime exited with error: signal: killed",
    }
    assert gone(before)
    assert not function.invoke().is_error


@pytest.mark.parametrize(
    ("source", "handler", "error_type", "message"),
    [
        (
            "import no_such_module",
            "trial.handler",
            "Runtime.ImportModuleError",
            "No module named 'no_such_module'",
        ),
        ("def handler(:", "trial.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'trial'"),
        ("x = 1", "trial.handler", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'trial'"),
        ("x = 1", "trial", "Runtime.MalformedHandlerName", "Bad handler 'trial'"),
        ("print('hm'); raise OSError('no disk')", "trial.handler", "OSError", "no disk"),
    ],
)
def test_init_error_is_returned_for_each_request(trial, source, handler, error_type, message):
    function = trial(source, handler=handler)
    for _ in range(2):
        outcome = function.invoke()
        assert outcome.is_error
        assert body(outcome)["errorType"] == error_type
        assert message in body(outcome)["errorMessage"]
        assert f"Error Type: {error_type}" in outcome.log.as_text()


def test_process_exit_during_init_is_returned_as_an_error_and_its_output_is_logged(trial):
    function = trial("import sys; print('no licence'); sys.exit(4)")
    outcome = function.invoke(request_id="r-7")
    assert body(outcome)["errorMessage"] == "RequestId: r-7 Error: Runtime exited with error: exit status 4"
    assert "no licence" in outcome.log.as_text()


def test_request_after_a_temporary_init_error_succeeds(trial, tmp_path):
    flag = tmp_path / "repaired"
    function = trial(
        f"""
        import pathlib
        if not pathlib.Path("{flag}").exists():
            raise RuntimeError("not yet")
        def handler(request, context):
            return "well"
        """
    )
    assert body(function.invoke())["errorMessage"] == "not yet"
    flag.touch()
    assert body(function.invoke()) == "well"


def test_init_phase_that_exceeds_its_limit_is_ended_and_runs_again_with_the_next_request(
    trial, tmp_path, monkeypatch
):
    monkeypatch.setattr("localstack_lambda_executor.execution_environment.INIT_TIMEOUT_S", 1)
    pids = tmp_path / "pids"
    function = trial(
        f"""
        import os, pathlib, time
        pids = pathlib.Path("{pids}")
        first = not pids.exists()
        pids.touch()
        pids.write_text(pids.read_text() + str(os.getpid()) + " ")
        time.sleep(600 if first else 0)
        def handler(request, context):
            return "well"
        """,
    )
    assert gone(int(pids.read_text()), within_s=0)
    assert body(function.invoke()) == "well"


def test_init_phase_of_a_replacement_process_counts_towards_the_functions_timeout(trial, tmp_path):
    function = trial(
        f"""
        import os, pathlib, time
        started = pathlib.Path("{tmp_path / "started"}")
        time.sleep(600 if started.exists() else 0)
        started.touch()
        def handler(request, context):
            os._exit(1)
        """,
        timeout_s=0.5,
    )
    assert body(function.invoke())["errorType"] == "Runtime.ExitError"
    began = time.monotonic()
    assert body(function.invoke())["errorType"] == "Sandbox.Timedout"
    assert time.monotonic() - began < 5


def test_function_runs_again_after_its_temporary_folder_has_been_deleted(trial, tmp_path):
    function = trial(
        """
        import os, tempfile
        def handler(request, context):
            if request:
                os._exit(1)
            return tempfile.mkstemp()[1]
        """
    )
    (folder,) = tmp_path.glob("execution-environment-*")
    shutil.rmtree(folder)
    function.invoke(b"[1]")
    assert Path(body(function.invoke())).parent == folder


def test_response_over_six_megabytes_is_rejected(trial):
    function = trial(
        """
        def handler(request, context):
            return "x" * request
        """
    )
    assert not function.invoke(b"6000000").is_error
    outcome = function.invoke(b"7000000")
    assert outcome.is_error
    assert body(outcome)["errorType"] == "Function.ResponseSizeTooLarge"
    assert not function.invoke(b"10").is_error


def test_middle_of_a_40_megabyte_log_is_dropped(trial):
    function = trial(
        """
        def handler(request, context):
            print("first line")
            for _ in range(request):
                print("x" * 999)
            print("last line")
            return "well"
        """,
        timeout_s=60,
    )
    outcome = function.invoke(b"40000")
    assert body(outcome) == "well"
    assert "[38951445 bytes dropped here]" in outcome.log.as_text()
    assert len(outcome.log.as_text()) < 1_100_000
    assert "first line" in outcome.log.as_text()
    assert "last line" in outcome.log.as_text()


def test_one_environment_handles_one_request_at_a_time_but_two_environments_run_concurrently(trial):
    source = """
        import time
        def handler(request, context):
            began = time.monotonic()
            time.sleep(0.5)
            return [began, time.monotonic()]
        """
    one, other = trial(source), trial(source)
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(each.invoke) for each in (one, one, other)]
        *spans, elsewhere = [body(call.result()) for call in calls]
    first, second = sorted(spans)
    assert first[1] <= second[0]
    assert elsewhere[0] < second[0]


def test_stop_ends_the_current_request_and_all_processes(trial, tmp_path):
    pids = tmp_path / "pids"
    function = trial(
        f"""
        import os, pathlib, subprocess, time
        def handler(request, context):
            child = subprocess.Popen(["sleep", "600"])
            pathlib.Path("{pids}.part").write_text(f"{{os.getpid()}} {{child.pid}}")
            os.rename("{pids}.part", "{pids}")
            time.sleep(600)
        """,
        timeout_s=600,
    )
    answers: list[object] = []
    caller = threading.Thread(target=lambda: answers.append(function.invoke()))
    caller.start()
    deadline = time.monotonic() + 10
    while not pids.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    function.execution_environment.stop()
    caller.join(5)
    assert body(answers[0])["errorType"] == "Runtime.ExitError"
    assert all(gone(int(pid)) for pid in pids.read_text().split())
    assert not list(tmp_path.glob("execution-environment-*"))


PARENT = """
import os, pathlib, sys, threading
sys.path[:] = {path!r}
from conftest import Trial
python = pathlib.Path({python!r})
def busy():
    source = "import time\\ndef handler(r, c): open('at work', 'w').close(); time.sleep(600)"
    Trial(pathlib.Path({folder!r}) / "busy", source, python, timeout_s=600).invoke()
idle = Trial(pathlib.Path({folder!r}) / "idle", "def handler(r, c): return 1", python)
# As in LocalStack, a short-lived thread starts each execution environment.
starter = threading.Thread(target=idle.execution_environment.start)
starter.start(); starter.join()
assert idle.invoke().body == b"1"
threading.Thread(target=busy, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def test_function_processes_die_when_their_parent_process_is_killed(tmp_path, lambda_python):
    source = PARENT.format(
        path=[str(Path(__file__).parent), *sys.path], python=str(lambda_python), folder=str(tmp_path)
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 10
    # An idle function exits even if it is not killed, because its Runtime API is gone. So a busy function is
    # tested, too.
    while not (tmp_path / "busy" / "at work").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    functions = children(parent.pid)
    assert len(functions) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert all(gone(pid) for pid in functions)


SUCCESSORS = """
import http.client, time
from localstack_lambda_executor.runtime_api import VERSION, Request, RuntimeApi
print("ready", flush=True)
api, statuses, until = RuntimeApi(), set(), time.monotonic() + 2
while time.monotonic() < until:
    api.close()
    api = RuntimeApi()
    api.offer(Request("r", "arn", b"{}", "Root=1-0-0", 1))
    connection = http.client.HTTPConnection(api.address, timeout=5)
    connection.request("GET", f"{VERSION}/runtime/invocation/next")
    statuses.add(connection.getresponse().status)
    connection.close()
print(statuses)
"""


def test_runtime_api_never_receives_the_connections_of_its_successor():
    """When a suspended process continues, the kernel restarts accept() with the same file descriptor, which may
    belong to another socket by then.
    """
    running = subprocess.Popen(
        [sys.executable, "-c", SUCCESSORS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    while running.poll() is None:
        time.sleep(0.002)
        running.send_signal(signal.SIGSTOP)
        time.sleep(0.001)
        running.send_signal(signal.SIGCONT)
    assert running.stdout.read() == "{200}\n"
