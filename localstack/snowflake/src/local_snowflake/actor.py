"""The user of a session, and the role, secondary roles and warehouse that it uses."""

from dataclasses import dataclass


@dataclass
class Actor:
    """A session's user with the role, the secondary roles and the warehouse that are in use."""

    user: str
    role: str
    all_secondary: bool = False
    warehouse: str | None = None
