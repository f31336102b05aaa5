"""Run dbt from its own virtual environment (`.venvs/dbt`), with the role that owns dbt's tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import SecretStr

from cli.child_process import run_to_end
from cli.environment import for_installation
from cli.refusal import Refusal
from snowpipe import dbt_process
from snowpipe.roles import transformer
from snowpipe.settings import Settings
from snowpipe.warehouse import url_of

PROJECT = Path(__file__).parent / "dbt"
DBT = Path(__file__).parents[1] / ".venvs" / "dbt" / "bin" / "dbt"
# Variables in which the connector looks for the credentials of AWS or Azure (its `wif_util.py`).
_CLOUD = ("AWS_", "AZURE_", "IDENTITY_", "MANAGED_IDENTITY_")


def dbt(arguments: Sequence[str], settings: Settings, environment: Mapping[str, str], dbt: Path = DBT) -> int:
    """Run dbt on our project, with its target folder and logs in the stack's folder; return dbt's exit code."""
    if not dbt.exists():
        raise Refusal(f"{dbt} does not exist: run make setup")
    wanted = environment_of(settings, environment)
    command = [str(dbt.with_name("python")), "-P", str(dbt_process.__file__), *arguments]
    return run_to_end(command, env=wanted).returncode


def environment_of(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return dbt's environment variables: those that `for_installation` keeps, dbt's folders, and the connection.

    For workload identity, they include the cloud's variables.
    """
    folder = settings.folder.resolve() / "dbt"
    connection = settings.connection.using(transformer)
    secrets = {
        "password": connection.password,
        "private_key_file_pwd": connection.private_key_file_pwd,
        "token": connection.token,
    }
    if connection.token_file_path:
        secrets["token"] = SecretStr(connection.token_file_path.read_text().strip())
    left_out = {*secrets, "token_file_path"}
    named = connection.model_dump(mode="json", exclude=left_out, exclude_none=True) | {
        name: secret.get_secret_value() for name, secret in secrets.items() if secret
    }
    # For workload identity and for a token, dbt needs an authenticator; without one, it signs in with the key or
    # the password (dbt-snowflake's profile).
    identity: dict[str, str] = {}
    if connection.workload_identity_provider:
        named["authenticator"] = "workload_identity"
        identity = {name: value for name, value in environment.items() if name.startswith(_CLOUD)}
    elif secrets["token"]:
        named["authenticator"] = "programmatic_access_token"
    given = {f"SNOWFLAKE_{name.upper()}": str(value) for name, value in named.items()} | {
        "DBT_PROJECT_DIR": str(PROJECT),
        "DBT_PROFILES_DIR": str(PROJECT),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        dbt_process.ADDRESS: url_of(connection),
    }
    # The caller's variables for dbt (DBT_TARGET, DBT_PROFILE, …) and for another Python environment are omitted.
    return for_installation(environment) | identity | given
