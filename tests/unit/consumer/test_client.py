"""The consumer's own client: what boto3's says, it says; what passes is tried again, what does not is told at once."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from consumer.client import JsonClient
from contract.signed import FixedCredentials, NoAnswer

CREDENTIALS = FixedCredentials("AKID", "secret", "token")


@dataclass
class Service:
    """Answers from a list (None: hangs up), then with an empty object."""

    answers: list[tuple[int, str] | None] = field(default_factory=list)
    requests: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    url: str = ""

    def client(self, service: str = "dynamodb", target: str = "DynamoDB_20120810") -> Any:
        return JsonClient(
            service, target, url=self.url, region="eu-west-1", credentials=CREDENTIALS, pause=lambda _: None
        )


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.requests.append(({k.lower(): v for k, v in self.headers.items()}, json.loads(body)))
            answer = found.answers.pop(0) if found.answers else (200, "{}")
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1].encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


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
    service: Service, name: str, target: str, call: str, request_: dict[str, Any]
) -> None:
    sdk: Any = boto3.client(  # type: ignore[call-overload]
        name,
        endpoint_url=service.url,
        region_name="eu-west-1",
        aws_access_key_id="AKID",
        aws_secret_access_key="secret",
        aws_session_token="token",
    )
    for client in (sdk, service.client(name, target)):
        getattr(client, call)(**request_)
    (theirs, their_body), (ours, our_body) = service.requests
    assert our_body == their_body
    for header in ("content-type", "x-amz-target", "x-amz-security-token"):
        assert ours[header] == theirs[header]
    assert ours["authorization"].split("/")[1:4] == theirs["authorization"].split("/")[1:4]


def test_answers_come_as_they_are(service: Service) -> None:
    service.answers = [(200, '{"Items": [{"pk": {"S": "a"}}], "Count": 1}')]
    assert service.client().query(TableName="t") == {"Items": [{"pk": {"S": "a"}}], "Count": 1}


@pytest.mark.parametrize(
    "passing",
    [
        None,
        (500, ""),
        (503, "<html>"),
        (400, '{"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}'),
        (400, '{"__type": "ThrottlingException"}'),
    ],
)
def test_what_passes_is_tried_three_times(service: Service, passing: tuple[int, str] | None) -> None:
    service.answers = [passing, passing]
    assert service.client().put_item(**PUT) == {}
    service.answers = [passing] * 3
    with pytest.raises((ClientError, NoAnswer)):
        service.client().put_item(**PUT)
    assert len(service.requests) == 6


@pytest.mark.parametrize("code", ["ConditionalCheckFailedException", "ValidationException"])
def test_what_does_not_pass_is_botocores_error_at_once(service: Service, code: str) -> None:
    service.answers = [
        (400, json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no"}))
    ]
    with pytest.raises(ClientError) as caught:
        service.client().put_item(**PUT)
    assert caught.value.response["Error"] == {"Code": code, "Message": "no"}
    assert caught.value.operation_name == "PutItem"
    assert len(service.requests) == 1


def test_each_thread_has_a_connection_of_its_own(service: Service) -> None:
    client = service.client()
    threads = [threading.Thread(target=lambda: [client.put_item(**PUT) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(service.requests) == 160


def test_nobody_there_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match="ConnectionRefusedError"):
        Service(url="http://127.0.0.1:9").client().put_item(**PUT)
