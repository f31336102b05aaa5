"""A running stack whose parts can be made to fail and whose stores can all be read."""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import batched
from typing import Any

from ops import read_stores
from ops.stage_outputs import ROOT, Outputs
from snowpipe.warehouse import Row as WarehouseRow
from snowpipe.warehouse import Snowflake, connect
from tests.faults.checker import Facts, MartFacts, Row
from tests.faults.fault_proxy import Proxy
from tests.faults.phones import Exchange, Phones
from tests.faults.read_visits import crossings_of, read_indexes
from tests.local_client import local_client
from tools.stack import localstack, snowflake
from tools.stack.processes import Process, descendants, description
from tools.stack.stack import Stack

PREFIXES = ("events/", "rejected/", "set-aside/", "aws/lambda/")
PROXY_PORT_OFFSET = 3
# Seconds after which SQS redelivers a message that a killed process had received
VISIBILITY_S = 5
READY_S = 60.0


def proxy_url(port: int) -> str:
    return f"http://127.0.0.1:{port + PROXY_PORT_OFFSET}"


class FaultyStack:
    """A running stack in which functions, Snowflake and phones reach LocalStack only through `proxy`.

    The tests read the stores without the proxy.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.outputs: Outputs = stack.outputs()
        port = stack.settings.port + PROXY_PORT_OFFSET
        self.proxy = Proxy(stack.settings.endpoint_url, port, self._callers)
        self._clients: dict[str, Any] = {}
        self._read: dict[str, list[bytes]] = {}
        self._known: set[str] = set()
        self._warehouse: Snowflake | None = None
        self._notifications: list[dict[str, Any]] = []

    @contextmanager
    def open(self) -> Iterator["FaultyStack"]:
        with self.proxy, self._subscribed():
            # With the deployed timeout, a message that a killed redrive function had received would return
            # only after six minutes.
            sooner = {"VisibilityTimeout": str(VISIBILITY_S)}
            self.aws("sqs").set_queue_attributes(QueueUrl=self.outputs.redrive_queue_url, Attributes=sooner)
            self.restart_snowflake()
            self._known = set(self.all_keys())
            yield self
            self._disconnect()

    def phones(self, **options: Any) -> Phones:
        path = self.outputs.endpoint.removeprefix(self.stack.settings.endpoint_url)
        return Phones(self.proxy.url + path, self.outputs.api_key, **options)

    def aws(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = local_client(self.stack.settings.endpoint_url, service)
        return self._clients[service]

    # --- processes

    def _process(self, name: str) -> Process:
        found = self.stack.processes.alive(name)
        assert found, f"{name} is not running"
        return found

    def _callers(self) -> Mapping[int, str]:
        """Return the name of each function process and of the Snowflake process, by process id."""
        found = {}
        for process in descendants(self._process(localstack.NAME)):
            what = description(process)
            if what.startswith("milkrun-local-"):
                found[process.pid] = what.removeprefix("milkrun-local-")
        if warehouse := self.stack.processes.alive(snowflake.NAME):
            found[warehouse.pid] = snowflake.NAME
        return found

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the environment variables that tools need to find this stack."""
        return self.stack.settings.aws_environment

    @property
    def snowflake_runs(self) -> bool:
        return self.stack.processes.alive(snowflake.NAME) is not None

    @property
    def snowflake_pid(self) -> int:
        return self._process(snowflake.NAME).pid

    @contextmanager
    def localstack_stopped(self) -> Iterator[None]:
        """Inside the `with` block, pause LocalStack but not its functions, so that calls to AWS get no response."""
        server = self._process(localstack.NAME)
        functions = self._callers()
        paused = [server, *(p for p in descendants(server) if p.pid not in functions)]
        for process in paused:
            os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in paused:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)

    def kill_snowflake(self) -> None:
        os.kill(self.snowflake_pid, signal.SIGKILL)

    @contextmanager
    def snowflakes_disk_full(self) -> Iterator[None]:
        """Inside the `with` block, simulate a full disk by limiting the size of Snowflake's files, including
        its log.
        """
        pid = self.snowflake_pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, hard))
        try:
            yield
        finally:
            with suppress(ProcessLookupError):  # Snowflake has exited
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    def restart_snowflake(self) -> None:
        """Start or restart Snowflake with the proxy as its AWS endpoint, and wait until it is ready."""
        settings, processes = self.stack.settings, self.stack.processes
        for process in processes.recorded():
            if process.name == snowflake.NAME:
                processes.end(process)
        command = [sys.executable, "-m", "local_snowflake", "--port", str(settings.snowflake_port)]
        command += ["--dir", str(settings.snowflake_folder), "--visibility-seconds", str(VISIBILITY_S)]
        environment = snowflake.environment(settings) | {"AWS_ENDPOINT_URL": self.proxy.url}
        processes.start(snowflake.NAME, command, environment, ROOT, grace_s=10)
        wait_for(lambda: snowflake.is_ready(settings), READY_S, "Snowflake is not ready")

    # --- content of the stores

    @contextmanager
    def _subscribed(self) -> Iterator[None]:
        """Inside the `with` block, subscribe a temporary queue to the visit notifications."""
        events, sqs = self.aws("events"), self.aws("sqs")
        consume = self.aws("lambda").get_function_configuration(FunctionName="milkrun-local-consume")
        bus = consume["Environment"]["Variables"]["EVENT_BUS_NAME"]
        self._queue_url = sqs.create_queue(QueueName="faults-notifications")["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=self._queue_url, AttributeNames=["QueueArn"])
        pattern = json.dumps({"source": ["milkrun.visits"]})
        events.put_rule(Name="faults-notifications", EventBusName=bus, EventPattern=pattern)
        target = {"Id": "queue", "Arn": attributes["Attributes"]["QueueArn"]}
        events.put_targets(Rule="faults-notifications", EventBusName=bus, Targets=[target])
        try:
            yield
        finally:
            events.remove_targets(Rule="faults-notifications", EventBusName=bus, Ids=["queue"])
            events.delete_rule(Name="faults-notifications", EventBusName=bus)
            sqs.delete_queue(QueueUrl=self._queue_url)

    def _receive_notifications(self) -> None:
        sqs = self.aws("sqs")
        while True:
            found = sqs.receive_message(QueueUrl=self._queue_url, MaxNumberOfMessages=10).get("Messages", [])
            if not found:
                return
            self._notifications += [json.loads(message["Body"]) for message in found]
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(found)]
            sqs.delete_message_batch(QueueUrl=self._queue_url, Entries=entries)

    def all_keys(self) -> Iterator[str]:
        pages = self.aws("s3").get_paginator("list_objects_v2")
        for prefix in PREFIXES:
            for page in pages.paginate(Bucket=self.outputs.bucket, Prefix=prefix):
                yield from (item["Key"] for item in page.get("Contents", ()))

    def facts(self, exchanges: Sequence[Exchange]) -> Facts:
        """Return everything that these exchanges may have added to the stores: new objects and their rows,
        and the devices' visits and notifications.
        """
        devices = {crossing.device_id for crossing in crossings_of(exchanges)}
        new = [key for key in self.all_keys() if key not in self._known]
        with ThreadPoolExecutor(4) as readers:
            unread = [key for key in new if key not in self._read]
            for key, lines in zip(unread, readers.map(self._lines, unread), strict=True):
                self._read[key] = lines
        visits, there_now = read_indexes(self.aws("dynamodb"), self.outputs.visits_table, exchanges)
        self._receive_notifications()
        return Facts(
            exchanges,
            {key: self._read[key] for key in new},
            visits,
            there_now,
            self._rows("EVENTS", [key for key in new if key.startswith("events/")]),
            self._rows("REJECTED", [key for key in new if key.startswith("rejected/")]),
            notifications=[event for event in self._notifications if event["detail"]["device_id"] in devices],
            ended_at=datetime.now(UTC),
        )

    def settle(self) -> None:
        """Exclude the objects that are in the bucket now from the results of later calls of `facts`."""
        self._known = set(self.all_keys())

    def _lines(self, key: str) -> list[bytes]:
        return read_stores.archived_lines(self.aws("s3"), self.outputs.bucket, key)

    def _rows(self, table: str, keys: Sequence[str]) -> list[Row]:
        sql = f"SELECT payload, file_name, file_row_number FROM {self.outputs.database}.RAW.{table}"
        found: list[Row] = []
        for some in batched(keys, 300, strict=False):
            marks = ", ".join(["%s"] * len(some))
            for row in self.query(f"{sql} WHERE file_name IN ({marks})", some):
                found.append(Row(row["file_name"], int(row["file_row_number"]), row["payload"]))
        return found

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[WarehouseRow]:
        """Run a query and return its rows. If it fails, retry once in a new session, because a test may have killed
        the server.
        """
        try:
            return self.session.query(sql, parameters)
        except Exception:  # the connector raises various exceptions if the server was killed
            self._disconnect()
            return self.session.query(sql, parameters)

    @property
    def session(self) -> Snowflake:
        if self._warehouse is None:
            self._entered = connect(self.outputs.snowflake)
            self._warehouse = self._entered.__enter__()
        return self._warehouse

    def _disconnect(self) -> None:
        if self._warehouse is not None:
            with suppress(Exception):
                self._entered.__exit__(None, None, None)
            self._warehouse = None

    def mart_facts(self, run: str, exchanges: Sequence[Exchange]) -> MartFacts:
        """Return the event ids in staging and the visits in the mart after the last dbt run.

        Only rows whose ids contain `run`, the id of a scenario, are included.
        """
        database = self.outputs.database
        sql = f"SELECT event_id FROM {database}.STAGING.STG_EVENTS WHERE event_id LIKE %s"
        staged = [row["event_id"] for row in self.query(sql, [f"{run}%"])]
        sql = f"SELECT DISTINCT device_id FROM {database}.MARTS.GEOFENCE_VISITS WHERE device_id LIKE %s"
        devices = [row["device_id"] for row in self.query(sql, [f"%{run}"])]
        visits = list(read_stores.mart_stays(self.session, database, devices)) if devices else []
        return MartFacts(exchanges, staged, visits)


def wait_for[T](probe: Callable[[], T], seconds: float, problem: str) -> T:
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"{problem} after {seconds:g} s"
        time.sleep(0.02)
    return found
