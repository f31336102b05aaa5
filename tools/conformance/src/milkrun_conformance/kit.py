"""Pass events to an app through the app's test hook, and report the app's behaviour in each scenario."""

import json
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import urllib3

from milkrun_conformance.server import Report, Stage

type Event = dict[str, object]


class HookError(Exception):
    """The app's test hook does not answer, or answers with an error."""


class Hook:
    """The app's test hook: a URL that accepts events, which the app then sends as usual.

    The hook receives a POST of `{"endpoint", "api_key", "events"}` and responds with 2xx as soon as the
    events are in the app's outbox.
    """

    def __init__(self, url: str, endpoint: str) -> None:
        self._url = url
        self._endpoint = endpoint
        self._http = urllib3.PoolManager(retries=False, timeout=10)

    def hand_over(self, events: list[Event]) -> None:
        body = json.dumps(
            {"endpoint": self._endpoint, "api_key": "conformance", "events": events}, allow_nan=False
        ).encode()
        try:
            response = self._http.request(
                "POST", self._url, body=body, headers={"Content-Type": "application/json"}
            )
        except urllib3.exceptions.HTTPError as error:
            raise HookError(f"The test hook {self._url} does not answer: {type(error).__name__}") from None
        if not 200 <= response.status < 300:
            raise HookError(f"The test hook {self._url} answered {response.status}")


def play(
    stage: Stage,
    hand_over: Callable[[list[Event]], None],
    scenarios: Iterable[str],
    *,
    timeout_s: float,
    quiet: float,
) -> list[Report]:
    """Run the scenarios one after another, and return a report for each.

    The app has `timeout_s` seconds to do what the scenario requires. Once it has done so, or after that time, the kit
    passes one more event to the app, so that the app reads its outbox again. Once the app has sent another request, or
    after another `timeout_s` seconds, the kit waits `quiet` seconds for late violations of the rule.
    """
    return [_play_one(stage, hand_over, name, timeout_s, quiet) for name in scenarios]


def _play_one(
    stage: Stage, hand_over: Callable[[list[Event]], None], scenario: str, timeout_s: float, quiet: float
) -> Report:
    stage.begin(scenario)
    hand_over([an_event() for _ in range(5)])
    _wait(stage.settled, timeout_s)
    before = len(stage.seen)
    hand_over([an_event()])
    _wait(lambda: len(stage.seen) > before, timeout_s)
    _wait(lambda: False, quiet)
    return stage.report()


def an_event() -> Event:
    """Return a valid event with a new random id."""
    return {
        "_id": f"conformance-{uuid.uuid4().hex}",
        "type": "user.updated_trip",
        "createdAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "user": {"deviceId": "conformance"},
    }


def _wait(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
