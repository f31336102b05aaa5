"""DynamoDB and EventBridge over signed HTTP, in the words of their boto3 clients.

Nine tenths of the consumer's CPU were botocore's (docs/performance.md). The calls that it makes are JSON in and out,
named by a header; what differs from boto3's client is only what stands between. Errors are botocore's ClientError.
"""

import random
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from botocore.exceptions import ClientError

from contract.signed import (
    PASSING_CODES,
    PASSING_STATUSES,
    Answer,
    Credentials,
    Endpoint,
    NoAnswer,
    Signer,
    json_code,
)

TRIES = 3
PAUSE_SECONDS = 0.05


class JsonClient:
    """`client.put_item(TableName=…)` and so on; safe to use from several threads, each with a connection of its own."""

    def __init__(
        self,
        service: str,
        target: str,
        *,
        url: str,
        region: str,
        credentials: Credentials,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        # DynamoDB is the older: its protocol is JSON 1.0, EventBridge's 1.1.
        self._content_type = f"application/x-amz-json-{'1.0' if service == 'dynamodb' else '1.1'}"
        self._target = target
        self._connect: Callable[[], Endpoint] = lambda: Endpoint(url, Signer(credentials, region, service))
        self._kept = threading.local()
        self._pause = pause

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        call = partial(self._call, re.sub(r"(?:^|_)([a-z])", lambda found: found[1].upper(), name))
        setattr(self, name, call)
        return call

    def _call(self, operation: str, **request: Any) -> Any:
        """Tried again as botocore's standard mode does: after no answer, a passing status, and being throttled."""
        headers = {
            "content-type": self._content_type,
            "x-amz-target": f"{self._target}.{operation}",
        }
        body = msgspec.json.encode(request)
        for attempt in range(1, TRIES + 1):
            try:
                answer = self._endpoint().send("POST", "/", headers, body)
            except NoAnswer:
                if attempt == TRIES:
                    raise
            else:
                if answer.status == 200:
                    return msgspec.json.decode(answer.body)
                code = json_code(answer)
                if attempt == TRIES or not (answer.status in PASSING_STATUSES or code in PASSING_CODES):
                    raise _error(answer, code, operation)
            self._pause(random.uniform(0, PAUSE_SECONDS * 2**attempt))  # noqa: S311 - jitter
        raise AssertionError("the last try returns or raises")

    def _endpoint(self) -> Endpoint:
        if not hasattr(self._kept, "endpoint"):
            self._kept.endpoint = self._connect()
        endpoint: Endpoint = self._kept.endpoint
        return endpoint


def _error(answer: Answer, code: str, operation: str) -> ClientError:
    try:
        found = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.MsgspecError:
        found = {}
    message = str(found.get("message") or found.get("Message") or "")
    about: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": answer.status},
    }
    return ClientError(about, operation)
