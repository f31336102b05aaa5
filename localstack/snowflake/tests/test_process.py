"""Test startup, login and shutdown of the server, and that it keeps its data when it is killed, the disk is full or AWS
is unavailable.
"""

import json
import random
import resource
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
from snowflake import connector
from typer.testing import CliRunner

from local_snowflake import __main__
from local_snowflake.engine import RESULTS_KEPT, RecentResults
from local_snowflake.testing import Aws, LocalProcess, Warehouse, eventually, free_port


def finished(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def health(local: LocalProcess) -> tuple[int, dict[str, object]]:
    call = HTTPConnection("127.0.0.1", local.port)
    call.request("GET", "/health")
    answer = call.getresponse()
    return answer.status, json.loads(answer.read())


def test_process_killed_at_random_moments_neither_loses_nor_duplicates_rows(
    own_local: LocalProcess, aws: Aws
) -> None:
    loading = Warehouse(own_local.start(), aws).with_pipe()
    moments = random.Random(7)
    files, lines = 60, 5

    def put_all() -> None:
        for number in range(files):
            loading.put(f"events/{number}", *({"_id": f"{number}-{line}"} for line in range(lines)))
            time.sleep(0.02)

    putting = threading.Thread(target=put_all)
    putting.start()
    for _ in range(3):
        time.sleep(moments.uniform(0.05, 0.6))  # so that the kill happens at a random moment
        own_local.kill()
        own_local.start()
    putting.join()
    loading.reconnect()
    loading.has_rows(files * lines)
    repeated = "SELECT payload:_id::string FROM RAW.EVENTS GROUP BY 1 HAVING count(*) > 1"
    assert loading.run(repeated) == []
    assert {row["STATUS"] for row in loading.history().values()} == {"Loaded"}
    assert len(loading.history()) == files


def test_all_objects_and_rows_are_restored_after_the_process_is_killed(
    own_local: LocalProcess, aws: Aws
) -> None:
    warehouse = Warehouse(own_local.start(), aws)
    warehouse.run("CREATE FILE FORMAT RAW.NDJSON TYPE = JSON")
    warehouse.run(
        f"""CREATE STORAGE INTEGRATION I TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE
            STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::1:role/r' STORAGE_AWS_EXTERNAL_ID = 'mine'
            STORAGE_ALLOWED_LOCATIONS = ('s3://{warehouse.bucket}/')"""
    )
    warehouse.stage(extra="STORAGE_INTEGRATION = I")
    warehouse.table()
    warehouse.run("CREATE VIEW RAW.V AS SELECT count(*) AS N FROM RAW.EVENTS")
    warehouse.run("CREATE STAGE RAW.INTERNAL")
    warehouse.pipe(options="FILE_FORMAT = (FORMAT_NAME = 'RAW.NDJSON')")
    warehouse.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    warehouse.run("CREATE ROLE R")
    warehouse.run("CREATE USER U DEFAULT_ROLE = R")
    warehouse.run("GRANT ROLE R TO USER U")
    warehouse.run("GRANT MONITOR ON PIPE RAW.EVENTS_PIPE TO ROLE R")
    warehouse.run("CREATE SCHEMA MANAGED WITH MANAGED ACCESS")
    warehouse.put("events/a", {"_id": 1})
    warehouse.has_waiting(1)
    warehouse.run(f"CREATE TEMPORARY TABLE {warehouse.database}.RAW.LEFT_OVER AS SELECT 1 AS A")
    shown = (
        "SHOW PIPES IN ACCOUNT",
        "DESC STAGE RAW.EVENTS_STAGE",
        "DESC INTEGRATION I",
        "DESC FILE FORMAT RAW.NDJSON",
        "SHOW GRANTS ON PIPE RAW.EVENTS_PIPE",
        "SHOW GRANTS TO USER U",
        "SHOW ROLES",
        "SHOW USERS LIKE 'U'",
        "SHOW STAGES IN ACCOUNT",
        "SELECT * FROM RAW.V",
    )
    before = [warehouse.run(sql) for sql in shown]
    own_local.kill()
    own_local.start()
    warehouse.reconnect()
    assert [warehouse.run(sql) for sql in shown] == before
    assert "LEFT_OVER" in warehouse.refused("SELECT * FROM RAW.LEFT_OVER"), (
        "a temporary table is dropped when its session ends"
    )
    assert warehouse.status()["pendingFileCount"] == 1
    warehouse.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = FALSE")
    warehouse.has_rows(1)


def test_files_that_arrive_while_the_process_is_stopped_are_loaded_by_a_new_pipe(
    own_local: LocalProcess, aws: Aws
) -> None:
    loading = Warehouse(own_local.start(), aws).with_pipe()
    loading.run("DROP PIPE RAW.EVENTS_PIPE")
    own_local.stop()
    for number in range(20):
        loading.put(f"events/{number}", {"_id": number})
    own_local.start()
    loading.reconnect()
    loading.pipe()
    loading.has_rows(20)


def test_second_process_on_the_same_folder_is_refused_with_a_one_line_error(local: LocalProcess) -> None:
    second = LocalProcess(local.folder, local.endpoint)
    second.log = local.folder.with_name("second.log")
    code, errors = finished(second.spawn())
    assert code == 2
    assert "in use by another local Snowflake" in errors
    assert len(errors.strip().splitlines()) == 1


def test_damaged_database_is_reported_with_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real set_up_logging would change the logging of all tests.
    monkeypatch.setattr(__main__, "set_up_logging", lambda _: None)
    (tmp_path / "DAMAGED.db").write_bytes(b"not a database" * 1000)
    arguments = ["--port", "0", "--dir", str(tmp_path), "--aws-endpoint-url", "http://127.0.0.1:1"]
    done = CliRunner().invoke(__main__.app, arguments)
    assert done.exit_code == 2
    assert "DAMAGED.db" in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_port_in_use_is_reported_with_a_one_line_error(local: LocalProcess, tmp_path: Path) -> None:
    second = LocalProcess(tmp_path / "other", local.endpoint)
    second.port = local.port
    code, errors = finished(second.spawn())
    assert code == 2
    assert f"port {local.port}" in errors
    assert len(errors.strip().splitlines()) == 1


def test_process_does_not_start_without_an_aws_endpoint(tmp_path: Path) -> None:
    process = LocalProcess(tmp_path / "x", "")
    code, errors = finished(process.spawn())
    assert code == 2
    assert "AWS_ENDPOINT_URL" in errors


def test_process_listens_only_on_loopback(local: LocalProcess) -> None:
    listening = (
        Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    )
    places = [line.split()[1] for line in listening if line.split()[1].endswith(f":{local.port:04X}")]
    assert [place for place in places if not place.startswith("0100007F:")] == []


def test_login_with_a_wrong_password_is_refused(own_local: LocalProcess) -> None:
    own_local.start("--login", "milkrun/secret")
    own_local.connect(user="MILKRUN", password="secret").close()
    with pytest.raises(connector.errors.DatabaseError, match="Incorrect username or password"):
        own_local.connect(user="milkrun", password="wrong")


def test_sigterm_ends_the_process_with_exit_code_0(own_local: LocalProcess) -> None:
    own_local.start()
    status, said = health(own_local)
    assert (status, said["status"], said["problem"]) == (200, "ok", None)
    session = own_local.connect()
    session.cursor().execute("SELECT 1")
    began = time.monotonic()
    assert own_local.stop() == 0
    assert time.monotonic() - began < 10


def test_loading_waits_while_the_disk_is_full_and_then_continues(own_local: LocalProcess, aws: Aws) -> None:
    """A file size limit simulates the full disk, because DuckDB's writes fail in the same way."""
    loading = Warehouse(own_local.start(), aws).with_pipe()
    assert own_local.process
    _, hard = resource.prlimit(own_local.process.pid, resource.RLIMIT_FSIZE)
    largest = max(file.stat().st_size for file in own_local.folder.glob("*.db*"))
    resource.prlimit(own_local.process.pid, resource.RLIMIT_FSIZE, (largest + 500_000, hard))
    text = "".join(random.Random(1).choices("abcdefghijklmnop0123456789", k=2000))
    for number in range(20):
        loading.put(f"events/{number}", *({"text": text, "n": number * 100 + n} for n in range(100)))
    problem = eventually(lambda: str(health(own_local)[1]["problem"]), lambda said: said != "None")
    assert "the disk is full" in problem
    resource.prlimit(own_local.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    loading.has_rows(2000)
    assert eventually(lambda: health(own_local)[1]["problem"] is None)


def test_loading_continues_after_a_log_line_could_not_be_written(own_local: LocalProcess, aws: Aws) -> None:
    """On a full disk, log lines cannot be written either. Previously, the first such line ended the loading
    thread.
    """
    loading = Warehouse(own_local.start(), aws).with_pipe()
    assert own_local.process
    _, hard = resource.prlimit(own_local.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(own_local.process.pid, resource.RLIMIT_FSIZE, (1, hard))
    for number in range(5):
        loading.put(f"events/{number}", {"n": number})
    eventually(lambda: health(own_local)[1]["problem"])
    resource.prlimit(own_local.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    loading.has_rows(5)


class Moto:
    """A moto process. Like LocalStack, it loses its data when it is killed."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_loading_waits_while_aws_is_unavailable_and_then_continues(tmp_path: Path) -> None:
    port = free_port()
    local = LocalProcess(tmp_path / "snowflake", f"http://127.0.0.1:{port}")
    moto = None
    try:
        local.start()  # moto is not running yet
        assert health(local)[0] == 200
        moto = Moto(port)
        aws = Aws(local.endpoint)
        eventually(lambda: reaches(port))
        loading = Warehouse(local, aws).with_pipe()
        loading.put("events/a", {"_id": 1})
        loading.has_rows(1)
        moto.kill()
        other = f"AUTO_INGEST = TRUE AWS_SNS_TOPIC = '{loading.topic}-2'"
        assert "bind failure" in loading.refused(f"CREATE PIPE RAW.P {other} AS {loading.copy()}")
        eventually(lambda: local.logged("queue_unreachable"))
        assert "channelErrorMessage" in loading.status()
        assert loading.count() == 1, "queries still work"
        moto = Moto(port)
        eventually(lambda: reaches(port))
        topic = aws.notifying_bucket(loading.bucket)
        eventually(lambda: aws.sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"])
        loading.put("events/b", {"_id": 2})
        loading.has_rows(2)
    finally:
        code = local.stop()
        if moto:
            moto.kill()
    assert code == 0


def reaches(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_results_of_concurrent_sessions_are_stored_without_an_error() -> None:
    results = RecentResults()

    def put(session: int) -> None:
        for number in range(10_000):
            results[f"{session}-{number}"] = ()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # otherwise threads rarely switch during an assignment
    try:
        with ThreadPoolExecutor(4) as sessions:
            list(sessions.map(put, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert len(results) == RESULTS_KEPT
