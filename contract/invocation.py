"""What Lambda hands to every function beside its request."""

from typing import Protocol


class Context(Protocol):
    """Lambda's context, as far as it is read."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...
