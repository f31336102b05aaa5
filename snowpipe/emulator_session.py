"""A boto3 session that calls an AWS emulator on this machine and ignores the user's AWS settings."""

import os
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boto3 import Session
    from botocore.loaders import Loader


def emulator_session(region: str | None) -> "Session":
    """Return a boto3 session with dummy credentials that reads neither AWS_* variables nor files in ~/.aws.

    Otherwise, a setting that the call does not need, such as a missing profile, a FIPS endpoint or a CA
    bundle, could make the call fail. (AWS SDKs and Tools Reference Guide: "Environment variables support".)
    """
    import boto3  # imported here, because it is slow to import and many commands do not call AWS
    import botocore.session
    from botocore.configprovider import (
        BOTOCORE_DEFAUT_SESSION_VARIABLES,
        ConstantProvider,
    )

    # Each variable is (name in a config file, environment variables, default, conversion).
    variables: dict[str, tuple[Any, ...]] = {
        name: (None, None, default, conversion)
        for name, (_, _, default, conversion) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    for name in ("config_file", "credentials_file"):
        variables[name] = (None, None, os.devnull, None)
    session = botocore.session.Session(session_vars=variables)
    # S3's settings are a separate section of the config file, which the list above does not contain.
    session.get_component("config_store").set_config_provider("s3", ConstantProvider({}))
    made = boto3.Session("test", "test", region_name=region or "us-east-1", botocore_session=session)
    # All sessions share a loader, because reading the services' models takes five sixths of a new client's CPU time.
    session.register_component("data_loader", _loader())
    return made


@cache
def _loader() -> "Loader":
    from botocore.loaders import create_loader

    return create_loader()


NO_PROXIES: dict[str, str] = {}
"""The `proxies` for botocore's Config. With None, botocore would use HTTP_PROXY."""
