"""boto3 for an emulator on this machine, whatever AWS settings the person who runs a tool has."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boto3 import Session


def emulator_session(region: str | None) -> "Session":
    """Return a session that reads no AWS_* variable and no file of ~/.aws, with credentials for an emulator.

    A profile that does not exist, FIPS endpoints or a CA bundle would otherwise fail a call that needs none of them.
    (AWS SDKs and Tools Reference Guide: "Environment variables support".)
    """
    import boto3  # only tools get here
    import botocore.session
    from botocore.configprovider import (
        BOTOCORE_DEFAUT_SESSION_VARIABLES,
        ConstantProvider,
    )

    # Each variable is (name in a config file, environment variables, default, conversion).
    variables: dict[str, Any] = {
        name: (None, None, default, conversion)
        for name, (_, _, default, conversion) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    for name in ("config_file", "credentials_file"):
        variables[name] = (None, None, os.devnull, None)
    session = botocore.session.Session(session_vars=variables)
    # A section of its own, whose variables are not in that list.
    session.get_component("config_store").set_config_provider("s3", ConstantProvider({}))
    return boto3.Session("test", "test", region_name=region or "us-east-1", botocore_session=session)


NO_PROXIES: dict[str, str] = {}
"""For botocore's Config: with None it would take HTTP_PROXY."""
