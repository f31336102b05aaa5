"""The arguments of a Lambda function."""

from collections.abc import Mapping
from typing import Any, Protocol

type LambdaEvent = Mapping[str, Any]  # JSON; each event source has its own form


class Context(Protocol):
    """The part of Lambda's context that is used."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...
