"""The types of the arguments that Lambda passes to a function."""

from collections.abc import Mapping
from typing import Any, Protocol

type LambdaEvent = Mapping[str, Any]  # JSON, whose structure depends on the event source


class Context(Protocol):
    """The members of Lambda's context object that Milkrun uses."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...
