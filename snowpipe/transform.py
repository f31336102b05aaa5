"""dbt, in an environment of its own (`.venvs/dbt`), on the stage's warehouse, with the role that owns its tables."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from snowpipe.refusal import Refusal
from snowpipe.roles import transformer
from snowpipe.settings import Settings

PROJECT = Path(__file__).parent / "dbt"
DBT = Path(__file__).parents[1] / ".venvs" / "dbt" / "bin" / "dbt"


def dbt(arguments: Sequence[str], settings: Settings, environment: Mapping[str, str], dbt: Path = DBT) -> int:
    """Run dbt on the project; its exit code. Target and logs go to the stack's folder."""
    if not dbt.exists():
        raise Refusal(f"{dbt} does not exist: run make setup")
    folder = settings.folder.resolve() / "dbt"
    connection = settings.connection.using(transformer)
    secrets = {"password": connection.password, "private_key_file_pwd": connection.private_key_file_pwd}
    named = connection.model_dump(mode="json", exclude=set(secrets), exclude_none=True) | {
        name: secret.get_secret_value() for name, secret in secrets.items() if secret
    }
    given = {f"SNOWFLAKE_{name.upper()}": str(value) for name, value in named.items()} | {
        "DBT_PROJECT_DIR": str(PROJECT),
        "DBT_PROFILES_DIR": str(PROJECT),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
    kept = {name: value for name, value in environment.items() if not name.startswith("SNOWFLAKE_")}
    return subprocess.run([dbt, *arguments], env=kept | given, check=False).returncode  # noqa: S603
