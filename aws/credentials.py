"""Credentials for signing: those that Lambda gives a function, or those of whoever runs a tool."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from aws.errors import CredentialsError


class Credentials(Protocol):
    def get_frozen_credentials(self) -> Any:
        """Return an object with `access_key`, `secret_key` and `token`. Raises CredentialsError."""


class FixedCredentials(NamedTuple):
    """Credentials that are never renewed. Lambda's own live as long as the execution environment."""

    access_key: str
    secret_key: str
    token: str | None

    def get_frozen_credentials(self) -> "FixedCredentials":
        return self


class RenewedCredentials:
    """botocore's credentials, which it renews before they expire."""

    def __init__(self, botocores: Any) -> None:
        self._botocores = botocores

    def get_frozen_credentials(self) -> Any:
        try:
            return self._botocores.get_frozen_credentials()
        except Exception as error:  # botocore raises a class of its own for each provider
            raise CredentialsError(f"credentials: {type(error).__name__}") from error


def preload(environment: Mapping[str, str]) -> None:
    """Load what `function_credentials` needs under SnapStart, before the snapshot of the process is taken.

    Otherwise the first request after each restore would load it: 102 modules, 74 ms of CPU instead of 4 ms. Elsewhere
    nothing is loaded, because credentials stand in the environment.
    (AWS Lambda Developer Guide: "Improving startup performance with Lambda SnapStart".)
    """
    if environment.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        import botocore.credentials
        import botocore.httpsession
        import botocore.utils

        botocore.utils.ContainerMetadataFetcher()  # its session loads TLS's certificates


def function_credentials(environment: Mapping[str, str]) -> Credentials:
    """Return a function's credentials: from its environment or, under SnapStart, from a local address.

    botocore's session would look in six more places, and importing it takes half of a cold start.
    (AWS Lambda Developer Guide: "Defined runtime environment variables".) Raises CredentialsError.
    """
    key, secret = (environment.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    if key and secret:
        return FixedCredentials(key, secret, environment.get("AWS_SESSION_TOKEN"))
    from botocore.credentials import ContainerProvider  # a sixth of a cold start

    return _found(ContainerProvider(environment).load())


def session_credentials() -> Credentials:
    """Return the credentials that the SDK would find here: profile, SSO, container, instance.

    Raises CredentialsError.
    """
    import botocore.session  # only tools and the KCL worker get here

    return _found(botocore.session.get_session().get_credentials())


def _found(credentials: Any) -> Credentials:
    if credentials is None:
        raise CredentialsError("no AWS credentials were found")
    return RenewedCredentials(credentials)
