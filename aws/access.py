"""The region, credentials and endpoints of a process, and the clients that use them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from aws.archive import Archive
from aws.credentials import Credentials, function_credentials, session_credentials
from aws.json_client import JsonClient
from aws.retry import FUNCTION_TRIES, TRIES

# Service names in AWS_ENDPOINT_URL_<SERVICE> that differ from ours.
# (AWS SDKs and Tools Reference Guide: "Service-specific endpoints".)
_VARIABLES = {"events": "EVENTBRIDGE"}


@dataclass(frozen=True, slots=True)
class Access:
    """Creates AWS clients for one region.

    `endpoints` holds the AWS_ENDPOINT_URL… variables. `tries` replaces TRIES (attempts per call) for some services.
    """

    region: str
    credentials: Credentials
    endpoints: Mapping[str, str]
    tries: Mapping[str, int] = MappingProxyType({})

    @classmethod
    def of_function(cls, environment: Mapping[str, str]) -> Self:
        """Return access with a function's credentials. Raises CredentialsError, or ValueError if no region is set."""
        return cls._of(environment, function_credentials(environment), FUNCTION_TRIES)

    @classmethod
    def of_user(cls, environment: Mapping[str, str]) -> Self:
        """Return access with the credentials that the SDK finds, for the KCL worker. Raises like `of_function`."""
        return cls._of(environment, session_credentials(), {})

    @classmethod
    def _of(cls, environment: Mapping[str, str], credentials: Credentials, tries: Mapping[str, int]) -> Self:
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        if not region:
            raise ValueError("AWS_REGION is not set")
        endpoints = {name: url for name, url in environment.items() if name.startswith("AWS_ENDPOINT_URL")}
        return cls(region, credentials, endpoints, tries)

    def url(self, service: str) -> str:
        """Return the endpoint URL that the environment sets for a service, or "" if it sets none."""
        own = f"AWS_ENDPOINT_URL_{_VARIABLES.get(service, service.upper())}"
        return self.endpoints.get(own) or self.endpoints.get("AWS_ENDPOINT_URL") or ""

    def client(self, service: str) -> JsonClient:
        tries = self.tries.get(service, TRIES)
        return JsonClient(service, self.region, self.credentials, self.url(service), tries)

    def archive(self, bucket: str) -> Archive:
        return Archive(bucket, self.region, self.credentials, self.url("s3"))
