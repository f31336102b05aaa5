"""Test the KCL worker's shard process, checkpoints and health check. tests/e2e runs the daemon itself."""

import base64
import io
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from consumer.consume import Outcome
from kcl import worker
from kcl.worker import Health, KclSettings, ShardProcessor
from tests.unit.consumer.strategies import START

ENVIRONMENT = {
    "ARCHIVE_BUCKET": "archive", "VISITS_TABLE": "visits", "EVENT_BUS_NAME": "bus",
    "STREAM_NAME": "geofence", "AWS_REGION": "eu-north-1", "STAGE": "prod",
}  # fmt: skip


class CheckpointError(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value


class Checkpointer:
    def __init__(self, *errors):
        self.errors, self.at = list(errors), []

    def checkpoint(self, sequence_number=None, sub_sequence_number=None):
        if self.errors:
            raise CheckpointError(self.errors.pop(0))
        self.at.append((sequence_number, sub_sequence_number))


class Input:
    """Any input that amazon_kclpy passes to the processor, such as a batch or a shutdown request."""

    def __init__(self, checkpointer=None, **named):
        self.checkpointer = checkpointer
        self.__dict__.update(named)


class Delivered:
    def __init__(self, sequence_number, sub_sequence_number=0):
        self.sequence_number, self.sub_sequence_number = str(sequence_number), sub_sequence_number
        self.partition_key, self.binary_data = "truck-1", b"{}"
        self.timestamp_millis = int(START.timestamp() * 1000)


class Consumer:
    """A fake consumer. Each call uses the next of `stops`: the position at which it stops, or an exception to raise."""

    def __init__(self, *stops):
        self.stops, self.batches = list(stops), []

    def __call__(self, records):
        self.batches.append([r.position for r in records])
        stop = self.stops.pop(0) if self.stops else None
        if isinstance(stop, Exception):
            raise stop
        outcome = Outcome(records=len(records))
        for record in records:
            if record.position == stop:
                outcome.stop_at(record, ConnectionError("throttled"))
        return outcome


def processor(consume, give_up_seconds=60.0):
    times = iter(range(10**6))
    shard = ShardProcessor(
        consume,
        stream="geofence",
        give_up_seconds=give_up_seconds,
        pause=lambda s: None,
        clock=lambda: next(times) * 0.7,
    )
    shard.initialize(Input(shard_id="shardId-7", sequence_number="TRIM_HORIZON"))
    return shard


def test_finished_batch_is_checkpointed_at_its_last_subrecord():
    checkpointer, consumer = Checkpointer(), Consumer()
    batch = [Delivered(1), Delivered(2, 0), Delivered(2, 1), Delivered(2, 2)]
    processor(consumer).process_records(Input(checkpointer, records=batch))
    assert checkpointer.at == [("2", 2)]


def test_failed_record_is_retried_after_checkpointing_the_records_before_it():
    checkpointer, consumer = Checkpointer(), Consumer((2, 1), (2, 1), (3, 0))
    batch = [Delivered(1), Delivered(2, 0), Delivered(2, 1), Delivered(3)]
    processor(consumer).process_records(Input(checkpointer, records=batch))
    assert consumer.batches == [
        [(1, 0), (2, 0), (2, 1), (3, 0)],
        [(2, 1), (3, 0)],
        [(2, 1), (3, 0)],
        [(3, 0)],
    ]
    assert checkpointer.at == [("2", 0), ("2", 1), ("3", 0)]


def test_process_ends_without_a_checkpoint_when_failures_last_too_long():
    checkpointer, consumer = Checkpointer(), Consumer(*[(1, 0)] * 1000)
    with pytest.raises(SystemExit):
        processor(consumer, give_up_seconds=20).process_records(Input(checkpointer, records=[Delivered(1)]))
    assert checkpointer.at == []
    assert 2 <= len(consumer.batches) <= 30


def test_give_up_timeout_restarts_after_each_finished_record():
    checkpointer, consumer = Checkpointer(), Consumer(*[(n, 0) for n in range(2, 30)])
    batch = [Delivered(n) for n in range(1, 30)]
    processor(consumer, give_up_seconds=3).process_records(Input(checkpointer, records=batch))
    assert checkpointer.at == [(str(n), 0) for n in range(1, 30)]


def test_maximum_pause_before_a_retry_doubles_until_it_reaches_a_limit(monkeypatch):
    monkeypatch.setattr(worker, "jitter", lambda max_seconds: max_seconds)
    pauses, times = [], iter(range(10**6))
    shard = ShardProcessor(
        Consumer(*[(1, 0)] * 1000),
        stream="geofence",
        give_up_seconds=60,
        pause=pauses.append,
        clock=lambda: float(next(times)),
    )
    with pytest.raises(SystemExit):
        shard.process_records(Input(Checkpointer(), records=[Delivered(1)]))
    assert pauses[:8] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert max(pauses) == 10.0


def test_unexpected_exception_ends_the_process_because_the_library_would_swallow_it():
    checkpointer = Checkpointer()
    with pytest.raises(SystemExit):
        processor(Consumer(KeyError("bug"))).process_records(Input(checkpointer, records=[Delivered(1)]))
    assert checkpointer.at == []


def test_throttled_checkpoint_is_retried_but_one_after_a_lost_lease_is_not():
    throttled, lost = (
        Checkpointer("ThrottlingException", "ThrottlingException"),
        Checkpointer(*["ShutdownException"] * 9),
    )
    processor(Consumer()).process_records(Input(throttled, records=[Delivered(1)]))
    assert throttled.at == [("1", 0)]
    processor(Consumer()).process_records(Input(lost, records=[Delivered(1)]))
    assert (lost.at, len(lost.errors)) == ([], 8)
    with pytest.raises(SystemExit):
        processor(Consumer()).process_records(
            Input(Checkpointer("InvalidStateException"), records=[Delivered(1)])
        )


def test_shard_end_and_requested_shutdown_are_checkpointed_but_a_lost_lease_is_not():
    ended, asked = Checkpointer(), Checkpointer()
    shard = processor(Consumer())
    shard.lease_lost(Input())
    shard.shard_ended(Input(ended))
    assert ended.at == [(None, None)]
    shard.shutdown_requested(Input(asked))
    assert asked.at == []
    shard.process_records(Input(Checkpointer(), records=[Delivered(4, 2)]))
    shard.shutdown_requested(Input(asked))
    assert asked.at == [("4", 2)]


def test_end_of_a_shard_is_checkpointed_despite_throttling():
    """The KCL treats an exception in `shard_ended` as success, although it reads the child shards only after
    the end of the parent shard is checkpointed.
    """
    throttled = Checkpointer("ThrottlingException", "ThrottlingException")
    processor(Consumer()).shard_ended(Input(throttled))
    assert throttled.at == [(None, None)]
    with pytest.raises(SystemExit):
        processor(Consumer()).shard_ended(Input(Checkpointer(*["ThrottlingException"] * 99)))
    taken_by_another = Checkpointer("ShutdownException")
    processor(Consumer()).shard_ended(Input(taken_by_another))
    assert taken_by_another.at == []


def test_worker_speaks_the_daemons_protocol_over_stdin_and_stdout():
    from amazon_kclpy.kcl import KCLProcess

    record = {
        "sequenceNumber": "5", "subSequenceNumber": 0, "partitionKey": "truck-1", "action": "record",
        "approximateArrivalTimestamp": 1763280000000, "data": base64.b64encode(b"{}").decode(),
    }  # fmt: skip
    says = [
        {"action": "initialize", "shardId": "s", "sequenceNumber": "TRIM_HORIZON", "subSequenceNumber": 0},
        {"action": "processRecords", "records": [record], "millisBehindLatest": 0},
        {"action": "checkpoint", "sequenceNumber": "5", "subSequenceNumber": 0, "error": None},
        {"action": "shutdownRequested"},
        {"action": "checkpoint", "sequenceNumber": "5", "subSequenceNumber": 0, "error": None},
    ]
    answers = io.StringIO()
    consumer = Consumer()
    shard = ShardProcessor(consumer, stream="geofence", give_up_seconds=1)
    KCLProcess(shard, io.StringIO("\n".join(map(json.dumps, says)) + "\n"), answers, io.StringIO()).run()
    assert consumer.batches == [[(5, 0)]]
    answered = [json.loads(line) for line in answers.getvalue().splitlines() if line]
    assert [(a["action"], a.get("responseFor"), a.get("sequenceNumber")) for a in answered] == [
        ("status", "initialize", None), ("checkpoint", None, "5"), ("status", "processRecords", None),
        ("checkpoint", None, "5"), ("status", "shutdownRequested", None),
    ]  # fmt: skip


def test_kcl_properties_come_from_settings_and_can_be_overridden():
    settings = KclSettings.of(
        ENVIRONMENT | {"KCL_PROPERTIES": '{"maxRecords": 7, "failoverTimeMillis": 3000}'}
    )
    found = settings.properties
    assert (found["streamName"], found["applicationName"], found["regionName"]) == (
        "geofence", "milkrun-prod-consumer", "eu-north-1",
    )  # fmt: skip
    assert (found["maxRecords"], found["failoverTimeMillis"]) == (7, 3000)
    assert found["shutdownGraceMillis"] == 20_000
    assert str(found["executableName"]).endswith(" -m kcl.worker --shard")
    with pytest.raises(ValueError, match="STREAM_NAME"):
        KclSettings.of(ENVIRONMENT | {"STREAM_NAME": ""})


def test_workers_on_one_machine_have_different_ids():
    settings = KclSettings.of(ENVIRONMENT)
    assert len({settings.properties["workerId"] for _ in range(50)}) == 50


def test_health_check_detects_a_missing_worker_and_a_shard_without_a_recent_heartbeat(
    tmp_path, monkeypatch, capsys
):
    for name, value in (ENVIRONMENT | {"KCL_STATE_FOLDER": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    health = Health(tmp_path)
    assert worker.main(["--health"]) == 1
    with subprocess.Popen("true") as ended:
        pass
    (tmp_path / "worker").write_text(str(ended.pid))
    assert health.problems(60) == ["no worker is running"]
    health.begin()
    health.note("shardId-1", "running")
    assert worker.main(["--health"]) == 0
    long_ago = time.time() - 1000
    os.utime(tmp_path / "shard-shardId-1", (long_ago, long_ago))
    assert worker.main(["--health"]) == 1
    assert "shard-shardId-1 has had no heartbeat for 10" in capsys.readouterr().out
    health.note("shardId-1", "gone")
    assert health.problems(60) == []


def test_health_check_ignores_a_shard_that_ends_while_the_files_are_listed(tmp_path, monkeypatch):
    health = Health(tmp_path)
    health.begin()
    monkeypatch.setattr(Path, "glob", lambda *_: [tmp_path / "shard-shardId-1"])
    assert health.problems(60) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--helth"], ["--health", "--shard"]])
def test_invalid_option_does_not_start_a_second_worker(tmp_path, monkeypatch, capsys, arguments):
    for name, value in (ENVIRONMENT | {"KCL_STATE_FOLDER": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "execve", lambda *call: pytest.fail("the daemon was started"))
    health = Health(tmp_path)
    health.begin()
    health.note("shardId-1", "running")
    assert worker.main(arguments) == 2
    assert capsys.readouterr().err == "Usage: python -m kcl.worker [--health | --shard]\n"
    assert (tmp_path / "shard-shardId-1").exists()


def test_error_for_missing_java_names_the_required_version_and_the_fix(tmp_path, monkeypatch, capsys):
    for name, value in (
        ENVIRONMENT | {"KCL_STATE_FOLDER": str(tmp_path), "JAVA_HOME": str(tmp_path)}
    ).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        worker.main([])
    assert capsys.readouterr().err == "Java 17 or newer is needed: install a JRE, or set JAVA_HOME\n"


@pytest.mark.parametrize(
    "attack", ["folder of another user", "symbolic link", "writable by the group", "shared like /tmp"]
)
def test_worker_refuses_a_state_folder_that_other_users_can_write_to(tmp_path, monkeypatch, capsys, attack):
    """The daemon runs the program that kcl.properties in this folder names."""
    prepared, folder = tmp_path / "prepared", tmp_path / "state"
    prepared.mkdir()
    (prepared / "kcl.properties").write_text("executableName = evil")
    if attack == "symbolic link":
        folder.symlink_to(prepared)
    elif attack == "folder of another user":
        prepared.rename(folder)
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    else:
        prepared.rename(folder)
        folder.chmod(0o770 if attack == "writable by the group" else 0o1777)
    mode = folder.stat().st_mode
    with pytest.raises(SystemExit, match=r"^2$"):
        Health(folder).begin()
    assert "set KCL_STATE_FOLDER to a private folder" in capsys.readouterr().err
    assert folder.stat().st_mode == mode, (
        "a worker that runs as root must not change the mode of a shared folder"
    )


def test_new_state_folder_and_every_properties_file_are_private(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    monkeypatch.setattr(worker.shutil, "which", lambda *_, **__: "/usr/bin/java")
    folder = tmp_path / "state"
    settings = KclSettings.of(ENVIRONMENT | {"KCL_STATE_FOLDER": str(folder)})
    worker.become_daemon(settings, {})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / worker.PROPERTIES).stat().st_mode & 0o777 == 0o600
    folder.chmod(0o755)  # as an operator may do
    (folder / "kcl.properties").chmod(0o644)
    before = os.umask(0)
    worker.become_daemon(settings, {})
    os.umask(before)
    assert len(started) == 2
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / worker.PROPERTIES).stat().st_mode & 0o777 == 0o600
