"""Test the stack's changes to LocalStack, without a deployed stage.

For example, functions run as separate processes, conditional DynamoDB writes are atomic, gzip bodies reach the function
unchanged, and no process is orphaned.
"""

import base64
import gzip
import io
import json
import os
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any
from uuid import uuid4

import pytest
import urllib3
from botocore.exceptions import ClientError

from tests.e2e.pipeline import eventually
from tests.local_client import local_client
from tools.stack import localstack
from tools.stack.processes import Process, descendants
from tools.stack.stack import Stack

pytestmark = pytest.mark.slow  # the tests start a second LocalStack; `make packages` tests only the plugin
ROLE = "arn:aws:iam::000000000000:role/trial"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    # Use ports near those of the other tests' stack, but not those of `make faults` and `make soak`.
    port = int(os.environ.get("MILKRUN_PORT", "4666")) + 50
    stack = Stack.of({**os.environ, "MILKRUN_LOCAL": str(folder), "MILKRUN_PORT": str(port)})
    stack.up(only="localstack")
    yield stack
    stack.down()


@pytest.fixture(scope="module")
def aws(stack: Stack) -> Callable[[str], Any]:
    def client(service: str) -> Any:
        options = {"max_pool_connections": 30, "retries": {"max_attempts": 0}, "read_timeout": 60}
        return local_client(stack.settings.endpoint_url, service, **options)

    return client


@pytest.fixture(scope="module")
def deploy(aws: Callable[[str], object]) -> Callable[..., str]:
    """Return a function that deploys a Lambda function with the given source and returns its name."""

    def make(source: str, **settings: object) -> str:
        name, archive = f"trial-{uuid4().hex[:8]}", io.BytesIO()
        with zipfile.ZipFile(archive, "w") as writer:
            writer.writestr("trial.py", dedent(source))
        aws("lambda").create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=ROLE,
            Handler="trial.handler",
            Code={"ZipFile": archive.getvalue()},
            **settings,
        )
        aws("lambda").get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})
        return name

    return make


def call(aws: Callable[[str], object], name: str, payload: object = None) -> tuple[object, str]:
    """Invoke a Lambda function; return its response and the tail of its log."""
    answer = aws("lambda").invoke(FunctionName=name, Payload=json.dumps(payload), LogType="Tail")
    return json.load(answer["Payload"]), base64.b64decode(answer["LogResult"]).decode()


def gone(processes: list[Process]) -> bool:
    return not any(process.is_alive() for process in processes)


def test_function_cannot_import_localstacks_packages(aws, deploy):
    name = deploy("import localstack\ndef handler(request, context): return 'found'")
    answer, log = call(aws, name)
    assert answer["errorType"] == "Runtime.ImportModuleError"
    assert "No module named 'localstack'" in answer["errorMessage"]
    assert "Runtime.ImportModuleError" in log


def test_concurrent_invocations_run_in_separate_processes_that_are_reused_later(aws, deploy):
    name = deploy(
        """
        import os, time
        def handler(request, context):
            time.sleep(1)
            return os.getpid()
        """
    )
    with ThreadPoolExecutor(3) as pool:
        first = {answer for answer, _ in pool.map(lambda _: call(aws, name), range(3))}
    assert len(first) == 3
    assert call(aws, name)[0] in first


def test_function_timeout_is_reported_and_the_next_invocation_succeeds(aws, deploy):
    name = deploy(
        """
        import time
        def handler(request, context):
            time.sleep(request)
            return "well"
        """,
        Timeout=1,
    )
    answer, log = call(aws, name, 30)
    assert answer["errorType"] == "Sandbox.Timedout"
    assert answer["errorMessage"].endswith("Error: Task timed out after 1.00 seconds")
    assert "Status: timeout" in log
    assert call(aws, name, 0)[0] == "well"


def test_log_of_an_invocation_is_written_to_cloudwatch_and_to_the_log_file(stack, aws, deploy):
    name = deploy("def handler(request, context): print('the word is', request)")
    call(aws, name, "quark")

    def messages() -> list[str]:
        try:
            events = aws("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
        except ClientError:
            return []
        return [event["message"].rstrip() for event in events]

    said = eventually(messages)
    assert said[0].startswith("START RequestId: ")
    assert said[1] == "the word is quark"
    assert said[-1].startswith("REPORT RequestId: ")
    assert "the word is quark" in (stack.settings.lambda_log_folder / f"{name}.log").read_text()


def test_unwritable_log_file_does_not_affect_the_response(stack, aws, deploy):
    name = deploy("def handler(request, context): return 'done'")
    # Create a folder at the log file's path, so that writing the log fails, as on a full disk.
    (stack.settings.lambda_log_folder / f"{name}.log").mkdir()
    assert call(aws, name)[0] == "done"


def test_s3_stores_its_objects_only_in_the_stacks_folder(stack, aws):
    bucket, body = (
        f"trial-{uuid4().hex[:8]}",
        os.urandom(2_000_000),
    )  # too large for LocalStack to keep in memory
    aws("s3").create_bucket(Bucket=bucket)
    aws("s3").put_object(Bucket=bucket, Key="k", Body=body)
    assert aws("s3").get_object(Bucket=bucket, Key="k")["Body"].read() == body
    assert list(stack.settings.localstack_folder.rglob(bucket))
    assert not list(Path(tempfile.gettempdir()).glob(f"localstack*/{bucket}"))


def test_concurrent_dynamodb_writes_are_atomic(aws):
    dynamodb = aws("dynamodb")
    dynamodb.create_table(
        TableName="trial",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )

    def write(key: str, writer: int) -> bool:
        try:
            dynamodb.put_item(
                TableName="trial",
                Item={"pk": {"S": key}, "writer": {"N": str(writer)}},
                ConditionExpression="attribute_not_exists(pk)",
            )
        except dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def count(key: str, _: int) -> bool:
        dynamodb.update_item(
            TableName="trial",
            Key={"pk": {"S": key}},
            UpdateExpression="ADD n :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )
        return bool(dynamodb.scan(TableName="trial")["Count"])

    with ThreadPoolExecutor(20) as pool:
        for key in ("a", "b", "c"):
            assert sum(pool.map(write, [key] * 20, range(20))) == 1
        assert all(pool.map(count, ["counter"] * 40, range(40)))
    assert dynamodb.get_item(TableName="trial", Key={"pk": {"S": "counter"}})["Item"]["n"] == {"N": "40"}


def test_body_with_gzip_content_encoding_reaches_the_function_unchanged(stack, aws, deploy):
    name = deploy(
        """
        import json
        def handler(request, context):
            return {"statusCode": 200, "body": json.dumps(request)}
        """
    )
    gateway = aws("apigateway")
    api = gateway.create_rest_api(name="trial", binaryMediaTypes=["*/*"])["id"]
    root = gateway.get_resources(restApiId=api)["items"][0]["id"]
    method = {"restApiId": api, "resourceId": root, "httpMethod": "POST"}
    gateway.put_method(**method, authorizationType="NONE")
    arn = aws("lambda").get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    gateway.put_integration(
        **method,
        type="AWS_PROXY",
        integrationHttpMethod="POST",
        uri=f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{arn}/invocations",
    )
    gateway.create_deployment(restApiId=api, stageName="local")

    def post(path: str, body: bytes) -> dict[str, object]:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        answer = urllib3.request("POST", stack.settings.endpoint_url + path, body=body, headers=headers)
        assert answer.status == 200, answer.data
        seen: dict[str, object] = json.loads(answer.data)
        return seen

    zipped = gzip.compress(b'{"event": 1}')
    for path in (f"/_aws/execute-api/{api}/local/", f"/restapis/{api}/local/_user_request_/"):
        for body in (zipped, zipped[:-3], b"not gzip at all"):
            seen = post(path, body)
            # LocalStack passes UTF-8 bodies as text; AWS uses base64 for all bodies of these media types.
            is_base64 = seen["isBase64Encoded"]
            assert (base64.b64decode(seen["body"]) if is_base64 else seen["body"].encode()) == body
            assert is_base64 or body == b"not gzip at all"
            assert {k.lower(): v for k, v in seen["headers"].items()}["content-encoding"] == "gzip"


def test_gzip_compressed_aws_api_request_is_accepted(aws):
    metrics = [{"MetricName": f"a-rather-long-name-{n:04}", "Value": 1.0} for n in range(500)]
    # boto3 compresses requests over 10 KiB
    aws("cloudwatch").put_metric_data(Namespace="trial", MetricData=metrics)
    found = aws("cloudwatch").list_metrics(Namespace="trial", MetricName="a-rather-long-name-0499")["Metrics"]
    assert len(found) == 1


def test_localstack_and_its_child_processes_listen_only_on_loopback(stack, aws, deploy):
    aws("kinesis").create_stream(StreamName="trial", ShardCount=1)
    call(aws, deploy("def handler(request, context): pass"))
    top = stack.processes.alive(localstack.NAME)
    family = [top, *descendants(top)]
    assert any("kinesis" in Path(f"/proc/{p.pid}/cmdline").read_text() for p in family)
    sockets = {link for p in family for link in socket_links(p.pid)}
    listening = [address for address, inode in listeners() if f"socket:[{inode}]" in sockets]
    assert len(listening) >= 3  # the gateway, a function's Runtime API, and the Kinesis mock
    assert set(listening) == {"0100007F"}  # 127.0.0.1 in the kernel's notation


def socket_links(pid: int) -> list[str]:
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(path.readlink()))
        except OSError:
            continue  # the file was closed in the meantime
    return links


def listeners() -> list[tuple[str, str]]:
    """Return the address and the inode of every listening TCP socket on this machine."""
    lines = "".join(Path(f"/proc/net/{family}").read_text() for family in ("tcp", "tcp6")).splitlines()
    rows = [line.split() for line in lines]
    return [(row[1].split(":")[0], row[9]) for row in rows if row[3] == "0A"]


def test_killed_localstack_leaves_no_process_and_can_be_restarted(stack, aws, deploy):
    name = deploy("import time\ndef handler(request, context): time.sleep(600)", Timeout=900)
    aws("lambda").invoke(FunctionName=name, InvocationType="Event", Payload="{}")
    aws("kinesis").list_streams()  # starts the Kinesis mock
    top = stack.processes.alive(localstack.NAME)

    def busy_function() -> bool:
        environments = [Path(f"/proc/{p.pid}/environ").read_text() for p in descendants(top)]
        return any(f"AWS_LAMBDA_FUNCTION_NAME={name}" in environment for environment in environments)

    eventually(busy_function)
    family = descendants(top)
    mock = localstack.kinesis_mock(top)
    assert mock is not None
    assert f"KINESIS_MOCK_PARENT={top.pid}\0" in Path(f"/proc/{mock}/environ").read_text()
    os.kill(top.pid, signal.SIGKILL)
    eventually(lambda: gone([top, *family]))

    stack.up(only="localstack")
    assert aws("kinesis").list_streams()["StreamNames"] == []
    family = [stack.processes.alive(localstack.NAME), *descendants(stack.processes.alive(localstack.NAME))]
    stack.down()
    assert gone(family)
    assert not stack.settings.folder.exists()
