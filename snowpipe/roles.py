"""The Snowflake roles that the commands use unless SNOWFLAKE_ROLE is set.

Each command uses the least privileged role that suffices. The objects that `dbt build` and `apply`
create therefore have different owners, even if both run in one shell. The DDL creates all roles except the
administrator's.
"""

from collections.abc import Callable

type Role = Callable[[str], str]
"""A function that takes the name of the stage's database and returns the role's name."""


def administrator(database: str) -> str:
    """The role that runs the DDL and owns its objects. By default, only ACCOUNTADMIN may create integrations."""
    del database
    return "ACCOUNTADMIN"


def loader(database: str) -> str:
    """The role that loads files into RAW, and pauses, resumes and refreshes the pipes."""
    return f"{database}_LOADER"


def transformer(database: str) -> str:
    """dbt's role, which reads RAW, and creates and owns the objects in STAGING and MARTS."""
    return f"{database}_TRANSFORMER"


def operator(database: str) -> str:
    """The role of the stage's operators, which reads every schema and has the loader's privileges."""
    return f"{database}_OPERATOR"
