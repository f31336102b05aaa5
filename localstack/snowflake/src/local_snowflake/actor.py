"""The actor of a session: its user, role, secondary roles and warehouse."""

from dataclasses import dataclass


@dataclass
class Actor:
    """A session's user, with the role, secondary roles and warehouse in use."""

    user: str
    role: str
    all_secondary: bool = False
    warehouse: str | None = None
