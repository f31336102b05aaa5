"""Use the pipeline in end-to-end tests: post events, read objects, rows and visits, and wait for results."""

import gzip
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from uuid import uuid4

import urllib3
from typer.testing import CliRunner

from cli.refusal import Refusal
from contract.events import Fence
from ops import read_stores
from ops.build_marts import build_marts
from ops.read_stores import Stay
from ops.stage_outputs import Outputs
from snowpipe.warehouse import Row, Snowflake
from tests.local_client import local_client
from tools.milkrun import app
from tools.stack.identity import NO_DEVICE, Tokens

type Event = dict[str, Any]
type Receipt = dict[str, Any]

FARM = Fence("farm", "farm-e2e")


class Answer(NamedTuple):
    status: int
    body: Receipt
    headers: Mapping[str, str]


class Ran(NamedTuple):
    exit_code: int
    result: Any
    output: str


class Pipeline:
    """A running stack or a deployed stage, as clients and operators see it.

    `environment` contains the environment variables of the operator's commands.
    """

    def __init__(
        self,
        outputs: Outputs,
        environment: Mapping[str, str],
        warehouse: Snowflake,
        stage: str = "local",
        label: str = "",
    ) -> None:
        self.outputs = outputs
        self.stage = stage
        self.label = label
        """The label of a run of `milkrun verify`: the prefix of its device ids, and the app version of its requests"""
        self.environment = environment
        self._token_of = token_source(outputs, environment)
        self._warehouse = warehouse
        self._http = urllib3.PoolManager(retries=False, timeout=32)
        self._clients: dict[str, Any] = {}
        self._began_at = datetime.now(UTC)

    @property
    def is_local(self) -> bool:
        return self.outputs.aws_endpoint_url is not None

    def aws(self, service: str) -> Any:
        if service not in self._clients:
            local = self.outputs.aws_endpoint_url
            self._clients[service] = local_client(local, service) if local else self.outputs.aws(service)
        return self._clients[service]

    def post(self, *events: Event, zipped: bool = False, headers: Mapping[str, str] | None = None) -> Answer:
        """Send the events as one JSON array with the stage's credentials, without retries; return the response."""
        body = json.dumps(events).encode()
        own = {"content-type": "application/json"} | ({"content-encoding": "gzip"} if zipped else {})
        return self.post_body(gzip.compress(body) if zipped else body, own | dict(headers or {}))

    def post_body(self, body: bytes, headers: Mapping[str, str], *, with_key: bool = True) -> Answer:
        key = {"x-api-key": self.outputs.api_key} if with_key else {}
        if self._token_of:
            key["authorization"] = f"Bearer {self._token_of(device_in(body))}"
        if self.label and not any(name.lower() == "x-app-version" for name in headers):
            key["X-App-Version"] = self.label
        response = self._http.request("POST", self.outputs.endpoint, body=body, headers=key | dict(headers))
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = {"not_json": response.data.decode(errors="replace")}
        return Answer(response.status, answer, response.headers)

    def archived(self, key: str) -> list[Event]:
        """Return the lines of an archived object, parsed as JSON."""
        lines = read_stores.archived_lines(self.aws("s3"), self.outputs.bucket, key)
        return [json.loads(line) for line in lines]

    def published(self, device: str) -> list[Event]:
        """Return the device's events on the stream since this object was created, in order within each shard."""
        since = self._began_at - timedelta(seconds=5)
        records = read_stores.stream_records(self.aws("kinesis"), self.outputs.stream, since)
        # Other tests also put invalid records there, so parse only records that contain the device id.
        events = [json.loads(record.data) for record in records if device.encode() in record.data]
        return [e for e in events if (e.get("user") or {}).get("deviceId", e.get("deviceId")) == device]

    def visits_of(self, device: str) -> list[Stay]:
        """Return the device's visits in DynamoDB, ordered by entry time."""
        return list(read_stores.device_stays(self.aws("dynamodb"), self.outputs.visits_table, device))

    def mart_visits_of(self, device: str) -> list[Stay]:
        stays = read_stores.mart_stays(self._warehouse, self.outputs.database, [device])
        return sorted(stays, key=lambda stay: stay.entered_at)

    def rows(self, sql: str, *parameters: object) -> list[Row]:
        """Query the warehouse and return the rows. `{db}` in the SQL text is replaced with the stage's database."""
        return self._warehouse.query(sql.replace("{db}", self.outputs.database), parameters)

    def raw_rows(self, event_id: str) -> list[dict[str, object]]:
        sql = (
            "SELECT payload, file_name, file_row_number FROM {db}.RAW.EVENTS WHERE payload:_id::VARCHAR = %s"
        )
        rows = self.rows(sql, event_id)
        return [row | {"payload": json.loads(row["payload"])} for row in rows]

    def ops(self, *arguments: str) -> Ran:
        """Run `milkrun` with these arguments in this process.

        Returns the exit code, the parsed JSON result (None without `--json`, or if the command raised a Refusal), and
        the output, or the Refusal's message.
        """
        ran = CliRunner().invoke(app, list(arguments), obj=self.environment)
        if isinstance(ran.exception, Refusal):
            return Ran(ran.exception.exit_code, None, str(ran.exception))
        assert ran.exception is None or isinstance(ran.exception, SystemExit), repr(ran.exception)
        return Ran(ran.exit_code, json.loads(ran.stdout) if "--json" in arguments else None, ran.output)

    def build_marts(self) -> None:
        assert build_marts(self.environment), "dbt build failed"


def token_source(outputs: Outputs, environment: Mapping[str, str]) -> Callable[[str], str] | None:
    """Return a function that gets a token for a device; return None if the stage requires no tokens."""
    command = shlex.split(environment.get("MILKRUN_E2E_TOKEN_COMMAND", ""))
    if command:
        return cache(lambda device: subprocess.check_output([*command, device], text=True).strip())
    return Tokens(outputs.token_issuer) if outputs.token_issuer else None


def device_in(body: bytes) -> str:
    """Return the device for which a request needs a token: the first device id in its body, or NO_DEVICE if
    the body contains none.
    """
    text = body
    if body.startswith(b"\x1f\x8b"):
        with suppress(EOFError):  # some tests truncate the body
            text = gzip.decompress(body)
    found = re.search(rb'"deviceId": ?"([^"]+)"', text)
    return found[1].decode() if found else NO_DEVICE


def eventually[T](probe: Callable[[], T], *, within: float = 90.0, every: float = 0.1) -> T:
    """Poll `probe` until its result is truthy, and return that result. Raises AssertionError after `within` seconds.

    An AssertionError raised by `probe` counts as "not yet". On a deployed stage the time limit is at least
    five minutes, because Snowpipe alone takes a minute there.
    """
    if not os.environ.get("MILKRUN_E2E_OUTPUTS", ".json").endswith(".json"):
        within, every = max(within, 300), max(every, 1)
    deadline = time.monotonic() + within
    while True:
        problem: AssertionError | None = None
        value: T | None = None
        try:
            value = probe()
        except AssertionError as error:
            problem = error
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(
                f"The condition was not met within {within} s. Last value: {problem or value!r}"
            )
        time.sleep(every)


def event(device: str, type_: str = "user.updated_trip", **fields: object) -> Event:
    """Return a valid event with a unique id and the current time."""
    return {
        "_id": uuid4().hex[:24],
        "type": type_,
        "createdAt": written(datetime.now(UTC)),
        "live": True,
        "user": {"userId": "driver-e2e", "deviceId": device},
        "location": {"type": "Point", "coordinates": [5.79, 53.2]},
        **fields,
    }


def crossing(device: str, kind: str, at: datetime, fence: Fence = FARM, **fields: object) -> Event:
    """Return a geofence event; `kind` is enter, dwell or exit."""
    verb = {"enter": "entered", "dwell": "dwelled_in", "exit": "exited"}[kind]
    geofence = {"tag": fence.tag, "externalId": fence.external_id}
    fields = {"createdAt": written(at), "geofence": geofence, "confidence": 3} | fields
    return event(device, f"user.{verb}_geofence", **fields)


def round_trip(device: str, fences: Sequence[Fence], begins_at: datetime) -> Iterator[Event]:
    """Yield the enter and exit events of one visit to each fence, in the order of `fences`. Each visit lasts
    ten minutes, and ten minutes pass before the next one.
    """
    for n, fence in enumerate(fences):
        entered_at = begins_at + timedelta(minutes=20 * n)
        yield crossing(device, "enter", entered_at, fence)
        yield crossing(device, "exit", entered_at + timedelta(minutes=10), fence, duration=10.0)


def written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
