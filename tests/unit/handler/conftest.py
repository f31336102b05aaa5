"""Fixtures for a handler with fake ports: `phone` sends requests, and `world` records their effects."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from contract import logs
from handler import main, publish_with_retries
from handler.identity import Tokens
from tests.unit.handler.fakes import Context, World, app


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def codes(self) -> list[str]:
        return [error["code"] for error in self.body.get("errors", [])]


@dataclass
class Phone:
    world: World
    settings: dict[str, str] = field(default_factory=dict)
    tokens: Tokens | None = None

    def post(self, body: object, headers: Mapping[str, str] | None = None, **context: float) -> Answer:
        """Post a base64-encoded body in payload format 1.0, as API Gateway does, and return the response.

        Bytes are sent unchanged, and other values as JSON.
        """
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        event = {
            "headers": headers or {"Content-Type": "application/json"},
            "body": base64.b64encode(raw).decode(),
            "isBase64Encoded": True,
            "requestContext": {"requestId": "chosen-by-client", "extendedRequestId": "request-1"},
        }
        return self.send(event, **context)

    def send(self, event: Mapping[str, object], **context: float) -> Answer:
        application = replace(app(self.world, **self.settings), tokens=self.tokens)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(main, "_app", lambda: application)
            patch.setattr(publish_with_retries, "BACKOFF_BASE_SECONDS", 0.0)
            given = main.ingest(event, Context(**context))  # type: ignore[arg-type]
        return Answer(given["statusCode"], given["headers"], json.loads(given["body"]))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def phone(world: World) -> Phone:
    return Phone(world)


@pytest.fixture
def new_phone() -> Callable[[], Phone]:
    """Return a function that creates a phone with its own fake ports.

    The examples of a hypothesis test would otherwise share one `phone`.
    """
    return lambda: Phone(World())


@pytest.fixture(autouse=True, scope="session")
def _json_lines() -> None:
    """Configure logging as the functions do, because structlog's default renders tracebacks slowly."""
    logs.configure("INFO")
