"""Hand events to an app through its test hook, play every scenario, and see what it does."""

import json
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import urllib3

from milkrun_conformance.server import Stage


class HookError(Exception):
    """The app's test hook cannot be used; the message says why."""


class Hook:
    """The app's test hook: a URL that takes events and sends them as the app would.

    It is posted `{"endpoint", "api_key", "events"}` and answers 2xx once the app has them in its outbox.
    """

    def __init__(self, url: str, endpoint: str) -> None:
        self._url = url
        self._endpoint = endpoint
        self._http = urllib3.PoolManager(retries=False, timeout=10)

    def hand_over(self, events: list[dict[str, Any]]) -> None:
        body = json.dumps(
            {"endpoint": self._endpoint, "api_key": "conformance", "events": events}, allow_nan=False
        ).encode()
        try:
            response = self._http.request(
                "POST", self._url, body=body, headers={"Content-Type": "application/json"}
            )
        except urllib3.exceptions.HTTPError as error:
            raise HookError(f"{self._url} does not answer: {type(error).__name__}") from None
        if not 200 <= response.status < 300:
            raise HookError(f"{self._url} answers {response.status}")


def play(
    stage: Stage,
    hand_over: Callable[[list[dict[str, Any]]], None],
    scenarios: Iterable[str],
    *,
    patience: float,
    quiet: float,
) -> list[dict[str, Any]]:
    """A report for each scenario.

    The app has `patience` seconds to do what is wanted; then it is given one more event, which makes it look
    into its outbox, and must do nothing else wrong for `quiet` seconds.
    """
    reports = []
    for name in scenarios:
        stage.begin(name)
        hand_over([an_event() for _ in range(5)])
        _wait(stage.settled, patience)
        before = len(stage.seen)
        hand_over([an_event()])
        _wait(lambda before=before: len(stage.seen) > before, patience)  # type: ignore[misc]
        _wait(lambda: False, quiet)
        reports.append(stage.report())
    return reports


def an_event() -> dict[str, Any]:
    """A sound event that only its id tells from the others."""
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
