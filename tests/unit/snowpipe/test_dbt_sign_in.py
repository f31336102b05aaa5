"""Test that dbt signs in to Snowflake with the same credentials as the commands.

The test compares the arguments that dbt-snowflake passes to the connector with the expected ones.
"""

import json
import subprocess
from pathlib import Path

from snowpipe.run_dbt import DBT, PROJECT, environment_of
from snowpipe.settings import load

PRINT = """
import json, os, sys, yaml
from jinja2.nativetypes import NativeEnvironment
from dbt.adapters.snowflake.connections import SnowflakeCredentials
jinja = NativeEnvironment()
jinja.filters["as_number"] = int
values = yaml.safe_load(open(sys.argv[1]))["milkrun"]["outputs"]["warehouse"]
def rendered(value, environment):
    return jinja.from_string(value).render(env_var=environment.get) if isinstance(value, str) else value
for environment in json.load(sys.stdin):
    known = {n: rendered(v, environment) for n, v in values.items() if n in SnowflakeCredentials.__dataclass_fields__}
    print(json.dumps(SnowflakeCredentials(**known).auth_args(), default=str))
"""
BASE = {"SNOWFLAKE_ACCOUNT": "org-account", "SNOWFLAKE_DATABASE": "MILKRUN_DEV"}
WAYS = {
    "password": (
        {"SNOWFLAKE_USER": "u", "SNOWFLAKE_PASSWORD": "p"},
        {"password": "p"},
    ),
    "programmatic access token": (
        {"SNOWFLAKE_USER": "u", "SNOWFLAKE_TOKEN": "pat"},
        {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": "pat"},
    ),
    "workload identity of AWS": (
        {"SNOWFLAKE_WORKLOAD_IDENTITY_PROVIDER": "AWS"},
        {"authenticator": "WORKLOAD_IDENTITY", "workload_identity_provider": "AWS"},
    ),
    "workload identity by OIDC": (
        {"SNOWFLAKE_WORKLOAD_IDENTITY_PROVIDER": "OIDC", "SNOWFLAKE_TOKEN": "jwt"},
        {"authenticator": "WORKLOAD_IDENTITY", "workload_identity_provider": "OIDC", "token": "jwt"},
    ),
}
SECRETS = {"password", "token", "workload_identity_provider", "authenticator", "private_key"}


def test_dbt_signs_in_with_the_same_credentials_as_the_commands(tmp_path: Path) -> None:
    environments = [
        environment_of(load({**BASE, **given, "MILKRUN_LOCAL": str(tmp_path)}), {"PATH": "/usr/bin:/bin"})
        for given, _ in WAYS.values()
    ]
    ran = subprocess.run(
        [DBT.parent / "python", "-c", PRINT, PROJECT / "profiles.yml"],
        env=environments[0],
        input=json.dumps(environments),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for line, (way, (_, expected)) in zip(ran.stdout.splitlines(), WAYS.items(), strict=True):
        kept = {name: value for name, value in json.loads(line).items() if name in SECRETS and value}
        assert {n: v.upper() if n == "authenticator" else v for n, v in kept.items()} == expected, way


def test_dbt_finds_the_credentials_of_aws_only_if_it_signs_in_with_workload_identity(tmp_path: Path) -> None:
    aws = {"AWS_REGION": "eu-west-1", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials"}
    kept = {}
    for way in ("workload identity of AWS", "password"):
        settings = load({**BASE, **WAYS[way][0], "MILKRUN_LOCAL": str(tmp_path)})
        found = environment_of(settings, {"PATH": "/usr/bin:/bin", **aws})
        kept[way] = {name: value for name, value in found.items() if name in aws}
    assert kept == {"workload identity of AWS": aws, "password": {}}
