"""The user of a session, with what the session uses."""

from dataclasses import dataclass


@dataclass
class Actor:
    """A session's user with the role, the secondary roles and the warehouse that are in use."""

    user: str
    role: str
    all_secondary: bool = False
    warehouse: str | None = None
