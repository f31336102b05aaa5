"""The consumer's own client: what boto3's says, it says; what passes is tried again, what does not is told at once."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from consumer.client import JsonClient
from contract.signed import FixedCredentials, NoAnswer
from tests.unit.contract.strict import Strict, strict_service

CREDENTIALS = FixedCredentials("AKID", "secret/+", "token==")


def client_of(service: Strict, name: str = "dynamodb", target: str = "DynamoDB_20120810") -> Any:
    return JsonClient(
        name, target, url=service.url, region="eu-west-1", credentials=CREDENTIALS, pause=lambda _: None
    )


@pytest.fixture
def service() -> Iterator[Strict]:
    with strict_service() as found:
        yield found


PUT: dict[str, Any] = {"TableName": "t", "Item": {"pk": {"S": "ü"}, "n": {"N": "1"}, "b": {"BOOL": True}}}
ENTRY = {"EventBusName": "b", "Source": "s", "DetailType": "d", "Detail": '{"a": 1}'}


@pytest.mark.parametrize(
    ("name", "target", "call", "request_"),
    [
        ("dynamodb", "DynamoDB_20120810", "put_item", PUT),
        (
            "dynamodb",
            "DynamoDB_20120810",
            "batch_get_item",
            {"RequestItems": {"t": {"Keys": [{"pk": {"S": "a"}}]}}},
        ),
        ("events", "AWSEvents", "put_events", {"Entries": [ENTRY]}),
    ],
)
def test_it_asks_as_boto3_asks(
    service: Strict, name: str, target: str, call: str, request_: dict[str, Any]
) -> None:
    sdk: Any = boto3.client(  # type: ignore[call-overload]
        name,
        endpoint_url=service.url,
        region_name="eu-west-1",
        aws_access_key_id="AKID",
        aws_secret_access_key="secret/+",
        aws_session_token="token==",
    )
    for client in (sdk, client_of(service, name, target)):
        getattr(client, call)(**request_)
    (_, _, theirs, their_body), (_, _, ours, our_body) = service.requests
    assert json.loads(our_body) == json.loads(their_body)
    for header in ("content-type", "x-amz-target", "x-amz-security-token"):
        assert ours[header] == theirs[header]
    assert ours["authorization"].split("/")[1:4] == theirs["authorization"].split("/")[1:4]


def test_answers_come_as_they_are(service: Strict) -> None:
    service.answers = [(200, b'{"Items": [{"pk": {"S": "a"}}], "Count": 1}')]
    assert client_of(service).query(TableName="t") == {"Items": [{"pk": {"S": "a"}}], "Count": 1}


@pytest.mark.parametrize(
    "passing",
    [
        None,
        (500, b""),
        (503, b"<html>"),
        (400, b'{"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}'),
        (400, b'{"__type": "ThrottlingException"}'),
    ],
)
def test_what_passes_is_tried_three_times(service: Strict, passing: tuple[int, bytes] | None) -> None:
    service.answers = [passing, passing]
    assert client_of(service).put_item(**PUT) == {}
    service.answers = [passing] * 3
    with pytest.raises((ClientError, NoAnswer)):
        client_of(service).put_item(**PUT)
    assert len(service.requests) == 6


@pytest.mark.parametrize("code", ["ConditionalCheckFailedException", "ValidationException"])
def test_what_does_not_pass_is_botocores_error_at_once(service: Strict, code: str) -> None:
    service.answers = [
        (400, json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no"}).encode())
    ]
    with pytest.raises(ClientError) as caught:
        client_of(service).put_item(**PUT)
    assert caught.value.response["Error"] == {"Code": code, "Message": "no"}
    assert caught.value.operation_name == "PutItem"
    assert len(service.requests) == 1


def test_each_thread_has_a_connection_of_its_own(service: Strict) -> None:
    client = client_of(service)
    threads = [threading.Thread(target=lambda: [client.put_item(**PUT) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(service.requests) == 160


def test_nobody_there_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match="ConnectionRefusedError"):
        client_of(Strict(url="http://127.0.0.1:9")).put_item(**PUT)
