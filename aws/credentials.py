"""Credentials for signing requests: of a Lambda function, or of the user or role that runs a tool or the KCL worker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aws.errors import CredentialsError

if TYPE_CHECKING:
    from botocore.credentials import Credentials as BotocoreCredentials
    from botocore.credentials import ReadOnlyCredentials


@dataclass(frozen=True, slots=True)
class FixedCredentials:
    """Credentials that are never renewed. A Lambda function's are valid as long as its execution environment exists."""

    access_key: str
    secret_key: str
    token: str | None

    def __call__(self) -> "FixedCredentials":
        return self


# Returns the credentials that are valid now. Raises CredentialsError.
type Credentials = Callable[[], FixedCredentials | ReadOnlyCredentials]


def preload(environment: Mapping[str, str]) -> None:
    """Under SnapStart, import the modules that `function_credentials` needs, so that they are in the snapshot.

    Otherwise the first request after each restore would import 102 modules and take 74 ms of CPU instead of 4 ms.
    Without SnapStart, the credentials are read from environment variables, which needs no imports.
    (AWS Lambda Developer Guide: "Improving startup performance with Lambda SnapStart".)
    """
    if environment.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        import botocore.credentials
        import botocore.httpsession
        import botocore.utils

        botocore.utils.ContainerMetadataFetcher()  # its session loads the TLS certificates


def function_credentials(environment: Mapping[str, str]) -> Credentials:
    """Return a function's credentials: from its environment or, under SnapStart, from a local endpoint.

    botocore's session would search six more places, and importing it takes half the time of a cold start.
    (AWS Lambda Developer Guide: "Defined runtime environment variables".) Raises CredentialsError.
    """
    key, secret = (environment.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    if key and secret:
        return FixedCredentials(key, secret, environment.get("AWS_SESSION_TOKEN"))
    from botocore.credentials import ContainerProvider  # imported here, as it takes a sixth of a cold start

    return renewed_by_botocore(ContainerProvider(environment).load)


def session_credentials() -> Credentials:
    """Return the credentials that the SDK finds (profile, SSO, container, instance). Raises CredentialsError."""
    import botocore.session  # slow to import, but only tools and the KCL worker use it

    return renewed_by_botocore(botocore.session.get_session().get_credentials)


def renewed_by_botocore(load: "Callable[[], BotocoreCredentials | None]") -> Credentials:
    if (found := _loaded(load)) is None:
        raise CredentialsError("No AWS credentials found.")
    return partial(_loaded, found.get_frozen_credentials)


def _loaded[T](call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:  # each of botocore's providers raises its own class
        raise CredentialsError(f"AWS credentials could not be loaded: {type(error).__name__}") from error
