"""Test that requests are the same as boto3's, and that only calls with transient errors are retried."""

import json
import threading
from collections.abc import Iterator

import boto3
import pytest

from aws.credentials import FixedCredentials
from aws.errors import NoResponseError, PermanentError, ServiceError
from aws.json_client import JsonClient
from tests.unit.aws.strict import Strict, strict_service

CREDENTIALS = FixedCredentials("AKID", "secret/+", "token==")


def client_of(service: Strict, name: str = "dynamodb") -> object:
    return JsonClient(name, url=service.url, region="eu-west-1", credentials=CREDENTIALS)


@pytest.fixture
def service() -> Iterator[Strict]:
    with strict_service() as found:
        yield found


PUT: dict[str, object] = {"TableName": "t", "Item": {"pk": {"S": "ü"}, "n": {"N": "1"}, "b": {"BOOL": True}}}
ENTRY = {"EventBusName": "b", "Source": "s", "DetailType": "d", "Detail": '{"a": 1}'}


@pytest.mark.wrong_answer
@pytest.mark.parametrize(
    ("name", "call", "request_"),
    [
        ("dynamodb", "put_item", PUT),
        ("dynamodb", "batch_get_item", {"RequestItems": {"t": {"Keys": [{"pk": {"S": "a"}}]}}}),
        ("events", "put_events", {"Entries": [ENTRY]}),
        ("kinesis", "put_records", {"StreamName": "s", "Records": [{"Data": b"{}", "PartitionKey": "ü"}]}),
        ("sqs", "send_message", {"QueueUrl": "https://q/1/redrive", "MessageBody": "{}"}),
        (
            "sqs",
            "change_message_visibility",
            {"QueueUrl": "https://q/1/redrive", "ReceiptHandle": "h", "VisibilityTimeout": 3},
        ),
        ("ssm", "get_parameter", {"Name": "/milkrun/secret", "WithDecryption": True}),
    ],
)
def test_request_body_and_headers_match_boto3(
    service: Strict, name: str, call: str, request_: dict[str, object]
) -> None:
    sdk: object = boto3.client(
        name,
        endpoint_url=service.url,
        region_name="eu-west-1",
        aws_access_key_id="AKID",
        aws_secret_access_key="secret/+",
        aws_session_token="token==",
    )
    for client in (sdk, client_of(service, name)):
        getattr(client, call)(**request_)
    (_, _, theirs, their_body), (_, _, ours, our_body) = service.requests
    assert json.loads(our_body) == json.loads(their_body)
    for header in ("content-type", "x-amz-target", "x-amz-security-token"):
        assert ours[header] == theirs[header]
    # Compare only region and service, because the dates differ if a day began between the two requests.
    assert ours["authorization"].split("/")[2:4] == theirs["authorization"].split("/")[2:4]


def test_client_returns_the_decoded_response(service: Strict) -> None:
    service.answers = [(200, b'{"Items": [{"pk": {"S": "a"}}], "Count": 1}')]
    assert client_of(service).query(TableName="t") == {"Items": [{"pk": {"S": "a"}}], "Count": 1}


@pytest.mark.parametrize(
    "transient",
    [
        None,
        (500, b""),
        (503, b"<html>"),
        (400, b'{"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}'),
        (400, b'{"__type": "ThrottlingException"}'),
        (400, b'{"__type": "com.amazonaws.sqs#RequestThrottled"}'),
    ],
)
def test_call_with_transient_errors_is_attempted_three_times(
    service: Strict, transient: tuple[int, bytes] | None
) -> None:
    service.answers = [transient, transient]
    assert client_of(service).put_item(**PUT) == {}
    service.answers = [transient] * 3
    with pytest.raises((ServiceError, NoResponseError)):
        client_of(service).put_item(**PUT)
    assert len(service.requests) == 6


def answer(code: str) -> bytes:
    return json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no"}).encode()


def test_error_that_is_not_transient_is_raised_immediately_with_its_code(service: Strict) -> None:
    service.answers = [(400, answer("ConditionalCheckFailedException"))]
    with pytest.raises(ServiceError) as caught:
        client_of(service).put_item(**PUT)
    assert caught.value.code == "ConditionalCheckFailedException"
    assert len(service.requests) == 1


def test_text_of_a_permanent_error_contains_the_error_code_but_not_the_services_message(
    service: Strict,
) -> None:
    service.answers = [(400, answer("ValidationException"))]
    with pytest.raises(PermanentError) as caught:
        client_of(service).put_item(**PUT)
    assert (str(caught.value), caught.value.detail) == ("DynamoDB: ValidationException", "no")
    assert len(service.requests) == 1


def test_client_can_be_used_by_several_threads_at_once(service: Strict) -> None:
    client = client_of(service)
    threads = [threading.Thread(target=lambda: [client.put_item(**PUT) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(service.requests) == 160


def test_call_fails_if_the_connection_is_refused() -> None:
    with pytest.raises(NoResponseError, match="ConnectionRefusedError"):
        client_of(Strict(url="http://127.0.0.1:9")).put_item(**PUT)
