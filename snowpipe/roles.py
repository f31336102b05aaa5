"""The role that each command uses unless SNOWFLAKE_ROLE names another.

A command gets the least role that it needs, so that `dbt build` and `apply` in one shell do not share an owner.
The DDL creates all roles but the administrator's.
"""

from collections.abc import Callable

type Role = Callable[[str], str]
"""The name of a role, given the stage's database."""


def administrator(database: str) -> str:
    """Creates and owns the stage's objects. Only ACCOUNTADMIN may create integrations from the start."""
    del database
    return "ACCOUNTADMIN"


def loader(database: str) -> str:
    """Loads files into RAW, and pauses, resumes and refreshes the pipes."""
    return f"{database}_LOADER"


def transformer(database: str) -> str:
    """Reads RAW; creates and owns what dbt makes in STAGING and MARTS."""
    return f"{database}_TRANSFORMER"


def operator(database: str) -> str:
    """Reads every schema and does what the loader does: whoever operates the stage."""
    return f"{database}_OPERATOR"
