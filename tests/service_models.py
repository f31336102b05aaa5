"""Check requests and responses against AWS's own service models, which botocore contains.

LocalStack, moto and our adapter accept requests that AWS would reject, and fake services may return responses that
AWS would not. botocore checks only types, required members and lower bounds of requests; this module also checks
upper bounds, patterns, enumerations and responses. It cannot check limits that are only in the documentation,
nor the adapter's plain HTTP requests to S3, for which tests/unit/aws has tests.
"""

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import botocore.client
import botocore.session
import msgspec
import pytest
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from aws import json_client

# The service for each prefix of the header x-amz-target. (botocore's service models: targetPrefix.)
_SERVICES = {target: service for service, (_, target, _) in json_client._PROTOCOLS.items()}


KNOWN_DEVIATIONS = {
    "apigateway": r"\.stageKeys\[\d+\] is not a string",
    "lambda": r"\.LastUpdateStatusReasonCode is not one of",
    "s3": r"\.Filter\.Key\.FilterRules\[\d+\]\.Name is not one of",
}
"""Violations in the responses of LocalStack 4.14: a pattern of the message per service. LocalStack returns an API key's
stages as objects, a reason for a function's update that AWS does not define, and a filter rule named `Prefix`
instead of `prefix`. Our code uses none of these members; one test uses the filter rule's name."""

type Answers = Literal["raise", "ignore"]


class ModelError(AssertionError):
    """A request or a response violates the service model of an AWS service."""


@dataclass(frozen=True)
class Form:
    """The options of a check: whether the message's blobs are base64, and whether lower bounds are checked."""

    encoded: bool = False
    lower_bounds: bool = True


@cache
def service_model(service: str) -> ServiceModel:
    return botocore.session.get_session().get_service_model(service)


def check(operation: OperationModel, request: Mapping[str, object], *, encoded: bool = False) -> None:
    """Check a request; raise ModelError with every violation.

    If `encoded` is true, blobs are base64, as in an HTTP body.
    """
    shape = operation.input_shape
    breaches = list(_breaches(shape, dict(request), "", Form(encoded))) if shape else []
    if breaches:
        raise ModelError(f"{operation.service_model.service_name} {operation.name}: {'; '.join(breaches)}")


def check_answer(operation: OperationModel, answer: Mapping[str, object], *, encoded: bool = False) -> None:
    """Check a fake service's response; raise ModelError with every violation except KNOWN_DEVIATIONS.

    Lower bounds are not checked: the model forbids a FailedRecordCount of 0 and empty UnprocessedItems,
    although AWS returns both on success ("PutRecords", "BatchWriteItem").
    """
    shape = operation.output_shape
    found = list(_breaches(shape, dict(answer), "", Form(encoded, lower_bounds=False))) if shape else []
    known = KNOWN_DEVIATIONS.get(operation.service_model.service_name)
    breaches = [breach for breach in found if not (known and re.search(known, breach))]
    if breaches:
        raise ModelError(
            f"{operation.service_model.service_name} {operation.name}: invalid response: {'; '.join(breaches)}"
        )


def check_http(headers: Mapping[str, str], body: bytes, answer: bytes | None = None) -> None:
    """Check the body of a request to an AWS service with a JSON protocol against the service's model. If `answer` is
    given, check this response body (of status 200) against the model instead. Raises ModelError with every violation.
    """
    prefix, _, name = headers.get("x-amz-target", "").rpartition(".")
    if prefix in _SERVICES:
        operation = service_model(_SERVICES[prefix]).operation_model(name)
        try:
            message = msgspec.json.decode((body if answer is None else answer) or b"{}")
        except msgspec.DecodeError as error:
            raise ModelError(f"{prefix} {name}: {error}") from error
        if answer is None:
            check(operation, message, encoded=True)
        else:
            check_answer(operation, message, encoded=True)


def _breaches(shape: Shape, value: Any, where: str, form: Form) -> Iterator[str]:
    match shape:
        case StructureShape():
            yield from _of_structure(shape, value, where, form)
            return
        case ListShape():
            yield from _size(shape, len(value), where, "items", form)
            for n, item in enumerate(value):
                yield from _breaches(shape.member, item, f"{where}[{n}]", form)
            return
        case MapShape():
            yield from _size(shape, len(value), where, "entries", form)
            for key, item in value.items():
                yield from _breaches(shape.key, key, f"{where} key", form)
                yield from _breaches(shape.value, item, f"{where}.{key}", form)
            return
    match shape.type_name:
        case "string":
            yield from _of_string(shape, value, where, form)
        case "integer" | "long" | "float" | "double":
            if not isinstance(value, int | float) or isinstance(value, bool):
                yield f"{where} is not a number"
            else:
                yield from _size(shape, value, where, "", form)
        case "boolean":
            if not isinstance(value, bool):
                yield f"{where} is not a boolean"
        case "blob" if isinstance(value, bytes | str):
            blob = base64.b64decode(value, validate=True) if form.encoded else value
            yield from _size(shape, len(blob), where, "bytes", form)


def _of_structure(shape: StructureShape, value: object, where: str, form: Form) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where} is not a structure"
        return
    for name in shape.required_members:
        if name not in value:
            yield f"{where}.{name} is missing"
    # DynamoDB's AttributeValue is a union, but the model does not mark it as one.
    one_of = getattr(shape, "is_tagged_union", False) or shape.name == "AttributeValue"
    if one_of and len(value) != 1:
        yield f"{where} is a union, but has {len(value)} members"
    for name, member in value.items():
        if name not in shape.members:
            yield f"{where}.{name} is unknown"
        elif member is not None:
            yield from _breaches(shape.members[name], member, f"{where}.{name}", form)


def _of_string(shape: Shape, value: object, where: str, form: Form) -> Iterator[str]:
    if shape.name == "policyDocumentType" and isinstance(value, dict):
        return  # botocore has already decoded the policy in a response
    if not isinstance(value, str):
        yield f"{where} is not a string"
        return
    yield from _size(shape, len(value), where, "characters", form)
    if (values := getattr(shape, "enum", None)) and value not in values:
        yield f"{where} is not one of {', '.join(values)}"
    if (pattern := shape.metadata.get("pattern")) and not _compiled(pattern).fullmatch(value):
        yield f"{where} does not match {pattern}"


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of a service model. If Python does not support it, because it contains one of Java's
    character classes, such as \\p{L}, return a pattern that matches anything.
    """
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error:
        return re.compile(".*", re.DOTALL)


def _size(shape: Shape, size: float, where: str, unit: str, form: Form) -> Iterator[str]:
    lower, upper = shape.metadata.get("min") if form.lower_bounds else None, shape.metadata.get("max")
    if (lower is not None and size < lower) or (upper is not None and size > upper):
        found = f"has {size} {unit}" if unit else f"is {size}"
        yield f"{where} {found} (minimum {lower}, maximum {upper})"


@contextmanager
def validated(answers: Answers = "raise") -> Iterator[None]:
    """Check each request that a botocore client or the adapter (aws/json_client.py) sends in this process, and each
    response unless `answers` is "ignore".

    An invalid request raises ModelError before it is sent. Invalid responses are not the caller's fault, so all of them
    raise one ModelError at the end of the `with` block.
    """
    sent_by_botocore: Callable[..., Any] = vars(botocore.client.BaseClient)["_make_api_call"]
    sent_by_adapter: Callable[..., Any] = json_client.JsonClient.send
    wrong: set[str] = set()

    def read(model: OperationModel, answer: Mapping[str, object], *, encoded: bool) -> None:
        try:
            check_answer(model, answer, encoded=encoded)
        except ModelError as error:
            wrong.add(str(error))

    def of_botocore(client: Any, operation: str, request: Any) -> Any:
        model = client.meta.service_model.operation_model(operation)
        check(model, request)
        answer = sent_by_botocore(client, operation, request)
        if answers == "raise":
            read(model, {k: v for k, v in answer.items() if k != "ResponseMetadata"}, encoded=False)
        return answer

    def of_adapter(client: Any, operation: str, request: object) -> bytes:
        model = service_model(_SERVICES[client._target]).operation_model(operation)
        check(model, msgspec.json.decode(msgspec.json.encode(request)), encoded=True)
        answer: bytes = sent_by_adapter(client, operation, request)
        if answers == "raise":
            read(model, msgspec.json.decode(answer or b"{}"), encoded=True)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.client.BaseClient, "_make_api_call", of_botocore)
        patch.setattr(json_client.JsonClient, "send", of_adapter)
        yield
    if wrong:
        raise ModelError("; ".join(sorted(wrong)))
