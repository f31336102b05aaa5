"""A client for AWS services with a JSON protocol, in which a header names the operation."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from aws.credentials import Credentials
from aws.errors import PermanentError, ServiceError
from aws.http import Endpoint, Response, Signer, endpoint_of
from aws.retry import JSON_BASE_SECONDS, TRIES, retrying

# Name in errors, prefix of the x-amz-target header, and version of the JSON protocol. (botocore's service models.)
_PROTOCOLS = {
    "dynamodb": ("DynamoDB", "DynamoDB_20120810", "1.0"),
    "events": ("EventBridge", "AWSEvents", "1.1"),
    "kinesis": ("Kinesis", "Kinesis_20131202", "1.1"),
    "sqs": ("SQS", "AmazonSQS", "1.0"),
    "ssm": ("SSM", "AmazonSSM", "1.1"),
}
# Error codes for requests that the service will never accept.
_PERMANENT = frozenset({"ValidationException", "InvalidArgumentException"})


class JsonClient:
    """A thread-safe client with boto3's methods, like `put_item(TableName=…)`. Raises the errors of aws/errors.py."""

    def __init__(
        self, service: str, region: str, credentials: Credentials, url: str = "", tries: int = TRIES
    ) -> None:
        name, self._target, version = _PROTOCOLS[service]
        self._content_type = f"application/x-amz-json-{version}"
        url = url or endpoint_of(service, region)
        self._endpoint = Endpoint(name, url, Signer(credentials, region, service))
        self._tries = tries

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        operation = re.sub(r"(?:^|_)([a-z])", lambda found: found[1].upper(), name)
        call = partial(self._call, operation)
        setattr(self, name, call)
        return call

    def _call(self, operation: str, **request: object) -> Any:
        return msgspec.json.decode(self.send(operation, request) or b"{}")

    def send(self, operation: str, request: object) -> bytes:
        """Call an operation, and return the body of the response. Bytes in `request` are encoded as base64."""
        headers = {"content-type": self._content_type, "x-amz-target": f"{self._target}.{operation}"}
        body = msgspec.json.encode(request)

        def once() -> bytes:
            response = self._endpoint.send("POST", "/", headers, body)
            if response.status == 200:
                return response.body
            raise self._error(response)

        return retrying(once, self._tries, JSON_BASE_SECONDS)

    def _error(self, response: Response) -> Exception:
        try:
            error = msgspec.json.decode(response.body, type=dict[str, object])
        except msgspec.MsgspecError:
            error = {}
        code = str(error.get("__type", "")).rpartition("#")[2] or str(response.status)
        if code in _PERMANENT:
            detail = str(error.get("message") or error.get("Message") or "")
            return PermanentError(f"{self._endpoint.name}: {code}", detail)
        return ServiceError(self._endpoint.name, code, response.status)
