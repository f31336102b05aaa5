"""Test that the plugin's entry points load, and that Lambda, DynamoDB and CloudFormation work in a LocalStack
with the plugin. These tests need LocalStack.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("localstack.runtime", reason="LocalStack is not installed in this environment")

import boto3

SOURCE = """
def handler(request, context):
    print("hello from", context.function_name)
    return {"got": request}
"""


def test_every_entry_point_of_the_plugin_loads() -> None:
    entry_points = distribution("localstack-lambda-executor").entry_points
    assert {entry.name for entry in entry_points} >= {"process", "dynamodb:moto", "keep_gzip_bodies"}
    for entry in entry_points:
        entry.load()  # raises an error if its module or its object does not exist


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lambda-logs")


@pytest.fixture(scope="module")
def endpoint(
    tmp_path_factory: pytest.TempPathFactory, lambda_python: Path, log_folder: Path
) -> Iterator[str]:
    """Start LocalStack with environment variables like those in the README; yield its URL."""
    folder = tmp_path_factory.mktemp("localstack")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "LOCALSTACK_HOST": f"127.0.0.1:{port}",
        "GATEWAY_SERVER": "twisted",
        "LAMBDA_RUNTIME_EXECUTOR": "process",
        "MILKRUN_LAMBDA_PYTHON": str(lambda_python),
        "MILKRUN_LAMBDA_LOGS": str(log_folder),
        "PROVIDER_OVERRIDE_DYNAMODB": "moto",
        "OVERRIDE_IN_DOCKER": "0",
        "FILESYSTEM_ROOT": str(folder),
        "DNS_ADDRESS": "0",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
    }
    log = folder / "localstack.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "localstack.runtime.main"], env=environment, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while not answers(url):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield url
    # Kill LocalStack, because it stores no data, and after SIGTERM it took from 7 s to over 2 min to exit.
    process.kill()
    process.wait(20)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_localstack/health", timeout=5) as answer:
            return "services" in json.load(answer)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def client(service: str, endpoint: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def test_function_deployed_to_localstack_returns_its_response_and_writes_its_log(
    endpoint: str, log_folder: Path
) -> None:
    shutil.rmtree(log_folder)  # a developer may delete the folder while LocalStack runs
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("trial.py", SOURCE)
    functions = client("lambda", endpoint)
    functions.create_function(
        FunctionName="trial",
        Runtime="python3.13",
        Role="arn:aws:iam::000000000000:role/trial",
        Handler="trial.handler",
        Code={"ZipFile": archive.getvalue()},
    )
    functions.get_waiter("function_active_v2").wait(FunctionName="trial")
    answer = functions.invoke(FunctionName="trial", Payload=b'{"a": 1}')
    assert "FunctionError" not in answer
    assert json.load(answer["Payload"]) == {"got": {"a": 1}}
    assert "hello from trial" in (log_folder / "trial.log").read_text()


def test_item_written_to_dynamodb_can_be_read(endpoint: str) -> None:
    tables = client("dynamodb", endpoint)
    tables.create_table(
        TableName="trial",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    tables.put_item(TableName="trial", Item={"id": {"S": "a"}})
    assert tables.get_item(TableName="trial", Key={"id": {"S": "a"}})["Item"] == {"id": {"S": "a"}}


def test_cloudformation_stack_update_changes_the_policy_of_an_sns_topic(endpoint: str) -> None:
    stacks, topics = client("cloudformation", endpoint), client("sns", endpoint)
    topic = topics.create_topic(Name="trial")["TopicArn"]

    def template(account: str) -> str:
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": account},
            "Action": "sns:Publish",
            "Resource": topic,
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        properties = {"PolicyDocument": policy, "Topics": [topic]}
        return json.dumps(
            {"Resources": {"Policy": {"Type": "AWS::SNS::TopicPolicy", "Properties": properties}}}
        )

    stacks.create_stack(StackName="trial", TemplateBody=template("111111111111"))
    stacks.get_waiter("stack_create_complete").wait(StackName="trial", WaiterConfig={"Delay": 1})
    stacks.update_stack(StackName="trial", TemplateBody=template("222222222222"))
    stacks.get_waiter("stack_update_complete").wait(StackName="trial", WaiterConfig={"Delay": 1})
    assert "222222222222" in topics.get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"]
