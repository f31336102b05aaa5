"""Measure a console's CPU usage, memory and delay while 200 position events and 50 other events arrive per second.

    MILKRUN_LOCAL=.local-x .venv/bin/python -m tests.console.load --seconds 60

All events are posted to the running stack's endpoint in batches, as phones send them, and read back from the
console's stream of server-sent events. A separate console is started for the measurement and stopped afterwards.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import urllib3

from ops.stage_outputs import Outputs
from tests.e2e.pipeline import crossing, event, written

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_mib(pid: int, name: str = "VmRSS") -> float:
    found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


class QueueListener(threading.Thread):
    """A thread that reads the console's event stream as a page does, and records when each event arrived."""

    def __init__(self, url: str, http: urllib3.PoolManager | None = None) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._http = http or urllib3.PoolManager()
        self.heard: dict[str, float] = {}
        self.kinds: dict[str, int] = {}
        self.bytes = 0
        self.counted = {"good": 0, "bad": 0}
        self.ready = threading.Event()

    def run(self) -> None:
        answer = self._http.request("GET", f"{self._url}/api/stream", preload_content=False, timeout=60)
        kind = ""
        for line in lines(answer):
            self.bytes += len(line) + 1
            if line.startswith(b"event: "):
                kind = line[7:].decode()
                self.kinds[kind] = self.kinds.get(kind, 0) + 1
            elif line.startswith(b"data: "):
                self.ready.set()
                self._hear(kind, json.loads(line[6:]))

    def _hear(self, kind: str, data: dict[str, Any]) -> None:
        listed = data.get("events") if kind == "snapshot" else data if kind == "events" else None
        if listed:
            self.counted = listed["counted"]
            for each in (*listed["good"], *listed["bad"]):
                self.heard.setdefault(each["event_id"], time.time())


def lines(answer: Any) -> Iterator[bytes]:
    rest = b""
    while chunk := answer.read1(65536):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


def drive(truck: int, at: int, run: str) -> dict[str, object]:
    """Return a truck's position event for second `at` of the measurement. Each truck stays near a different point."""
    angle = at / 60 + truck
    place = [5.8 + truck % 20 * 0.02 + 0.004 * (angle % 1), 53.0 + truck // 20 * 0.02 + 0.002 * (angle % 2)]
    return event(
        f"load-{truck:03d}-{run}", "user.updated_trip", location={"type": "Point", "coordinates": place}
    )


def main(
    seconds: Annotated[int, typer.Option()] = 60,
    trucks: Annotated[int, typer.Option()] = 200,
    others: Annotated[int, typer.Option(help="Other events per second.")] = 50,
    batch: Annotated[int, typer.Option()] = 25,
    warm_up: Annotated[int, typer.Option()] = 20,
    live_bus: Annotated[bool, typer.Option()] = True,
) -> None:
    folder = Path(os.environ.get("MILKRUN_LOCAL", ".local"))
    outputs = Outputs.read(folder / "outputs.json")
    how = "--live-bus" if live_bus else "--no-live-bus"
    command = [sys.executable, "-m", "tools.console", "--port", "0", how]
    console = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert console.stderr
        url = console.stderr.readline().rpartition(" ")[2].strip()
        page = QueueListener(url)
        page.start()
        assert page.ready.wait(20)
        time.sleep(warm_up)
        print(json.dumps(measured(outputs, console.pid, page, seconds, trucks, others, batch), indent=2))
    finally:
        console.terminate()
        console.wait(15)


def measured(
    outputs: Outputs, pid: int, page: QueueListener, seconds: int, trucks: int, others: int, batch: int
) -> dict[str, object]:
    run = f"{random.randrange(1 << 32):08x}"
    http = urllib3.PoolManager(maxsize=16, retries=False, timeout=30)
    answered: dict[str, float] = {}
    refused: list[int] = []

    def post(events: list[dict[str, object]]) -> None:
        headers = {"x-api-key": outputs.api_key, "content-type": "application/json"}
        answer = http.request("POST", outputs.endpoint, body=json.dumps(events).encode(), headers=headers)
        if answer.status != 202:
            refused.append(answer.status)
            return
        answered.update((str(each["_id"]), time.time()) for each in events)

    began, cpu = time.monotonic(), cpu_seconds(pid)
    before = dict(page.kinds)
    with ThreadPoolExecutor(8) as posters:
        for second in range(seconds):
            now = datetime.now(UTC)
            events = [drive(truck, second, run) for truck in range(trucks)]
            events += [
                crossing(f"load-{n:03d}-{run}", "enter" if second % 2 else "exit", now)
                for n in random.sample(range(trucks), others // 10)
            ]
            events += [
                event(f"load-{n:03d}-{run}", "pickup.completed", createdAt=written(now))
                for n in random.sample(range(trucks), others - others // 10)
            ]
            for start in range(0, len(events), batch):
                posters.submit(post, events[start : start + batch])
            time.sleep(max(0.0, began + second + 1 - time.monotonic()))
    took, used = time.monotonic() - began, cpu_seconds(pid) - cpu
    time.sleep(3)
    assert answered, f"the endpoint accepted no request; its first statuses were {refused[:5]}"
    delays = sorted(page.heard[id_] - at for id_, at in answered.items() if id_ in page.heard)
    return {
        "events_a_second": round(len(answered) / took, 1),
        "of_one_core_percent": round(100 * used / took, 1),
        "resident_mib": round(memory_mib(pid), 1),
        "peak_mib": round(memory_mib(pid, "VmHWM"), 1),
        "delay_s_from_202_to_page": {
            "p50": round(statistics.median(delays), 2) if delays else None,
            "p95": round(delays[int(len(delays) * 0.95)], 2) if delays else None,
            "heard": len(delays),
        },
        "answered": len(answered),
        "requests_refused": len(refused),
        "messages": {kind: n - before.get(kind, 0) for kind, n in page.kinds.items()},
        "counted": page.counted,
        "stream_kib": page.bytes // 1024,
    }


if __name__ == "__main__":
    typer.run(main)
