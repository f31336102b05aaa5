"""Test that validation against AWS's service models rejects requests and responses that are invalid on AWS."""

import base64
import json

import boto3
import pytest

from aws.credentials import FixedCredentials
from aws.json_client import JsonClient
from tests.service_models import ModelError, check, check_answer, check_http, service_model, validated

RECORD = {"Data": b"x", "PartitionKey": "device"}
WRONG = {
    "too many records": ("kinesis", "PutRecords", {"StreamName": "s", "Records": [RECORD] * 501}),
    "no records": ("kinesis", "PutRecords", {"StreamName": "s", "Records": []}),
    "partition key too long": (
        "kinesis",
        "PutRecords",
        {"StreamName": "s", "Records": [RECORD | {"PartitionKey": "k" * 257}]},
    ),
    "space in the stream name": ("kinesis", "PutRecords", {"StreamName": "a stream", "Records": [RECORD]}),
    "record too large": (
        "kinesis",
        "PutRecords",
        {"StreamName": "s", "Records": [RECORD | {"Data": b"x" * (11 << 20)}]},
    ),
    "missing member": ("sqs", "SendMessage", {"QueueUrl": "https://q"}),
    "unknown member": ("sqs", "SendMessage", {"QueueUrl": "https://q", "MessageBody": "x", "Body": "x"}),
    "value with two types": (
        "dynamodb",
        "PutItem",
        {"TableName": "visits", "Item": {"pk": {"S": "a", "N": "1"}}},
    ),
    "too many keys": (
        "dynamodb",
        "BatchGetItem",
        {"RequestItems": {"visits": {"Keys": [{"pk": {"S": str(n)}} for n in range(101)]}}},
    ),
    "unknown iterator type": (
        "kinesis",
        "GetShardIterator",
        {"StreamName": "s", "ShardId": "0", "ShardIteratorType": "X"},
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_request_that_violates_the_model_is_rejected(case):
    service, operation, request = WRONG[case]
    with pytest.raises(ModelError):
        check(service_model(service).operation_model(operation), request)


def test_number_outside_its_limits_is_reported_with_the_limits():
    operation = service_model("kinesis").operation_model("GetRecords")
    with pytest.raises(ModelError, match=r"\.Limit is 10001 \(minimum 1, maximum 10000\)$"):
        check(operation, {"ShardIterator": "a", "Limit": 10001})


def test_valid_request_is_accepted_both_as_arguments_and_as_an_http_body():
    request = {"StreamName": "milkrun-dev-geofence", "Records": [RECORD] * 500}
    check(service_model("kinesis").operation_model("PutRecords"), request)
    data = base64.b64encode(b"x").decode()
    sent = {"StreamName": "s", "Records": [{"Data": data, "PartitionKey": "device"}]}
    check_http({"x-amz-target": "Kinesis_20131202.PutRecords"}, json.dumps(sent).encode())
    check_http({}, b"no request to a JSON service")


def test_invalid_http_body_is_rejected():
    body = b'{"StreamName": "s", "Records": []}'
    with pytest.raises(ModelError, match=r"kinesis PutRecords: \.Records has 0 items"):
        check_http({"x-amz-target": "Kinesis_20131202.PutRecords"}, body)


def test_response_that_violates_the_model_is_rejected():
    headers = {"x-amz-target": "Kinesis_20131202.PutRecords"}
    result = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
    check_http(headers, b"", json.dumps({"FailedRecordCount": 0, "Records": [result]}).encode())
    for wrong in ({}, {"Records": [result | {"SequenceNumber": "one"}]}, {"Record": []}):
        with pytest.raises(ModelError):
            check_http(headers, b"", json.dumps(wrong).encode())


def test_invalid_request_of_the_adapter_or_of_boto3_is_not_sent():
    nowhere, keys = "http://127.0.0.1:9", FixedCredentials("AKID", "secret", None)
    sdk = boto3.client("kinesis", region_name="eu-west-1", endpoint_url=nowhere)
    for client in (JsonClient("kinesis", "eu-west-1", keys, nowhere), sdk):
        with pytest.raises(ModelError, match="501 items"), validated():
            client.put_records(StreamName="s", Records=[RECORD] * 501)


def test_invalid_response_of_a_fake_service_is_reported_when_validation_ends(monkeypatch):
    answer = {"Messages": [{"MessageId": 1}]}
    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", lambda *_: answer)
    with pytest.raises(ModelError, match="MessageId"), validated():
        boto3.client("sqs", region_name="eu-west-1").receive_message(QueueUrl="https://q")


def test_known_deviation_of_localstack_does_not_hide_other_violations():
    operation = service_model("apigateway").operation_model("GetApiKey")
    known = {"stageKeys": [{"restApiId": "a", "stageName": "local"}]}
    check_answer(operation, known)
    with pytest.raises(ModelError, match=r"invalid response: \.enabled is not a boolean$"):
        check_answer(operation, known | {"enabled": "yes"})
