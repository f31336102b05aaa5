"""Test that each rule of the fault proxy affects only matching calls, and that the proxy passes on all other
calls unchanged.
"""

import base64
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import urllib3

from tests.faults.fault_proxy import Fault, Proxy, Rule

SIGNED = "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/{}/aws4_request, SignedHeaders=host"
http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=1, read=2))


@dataclass
class Upstream:
    """A server that records each request. It responds with the request's body, or with a PutRecords response if
    the body contains Kinesis records.
    """

    url: str = ""
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    found = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.requests.append((self.command, self.path, headers, body))
            answer = body
            if body.startswith(b'{"Records"'):
                answer = json.dumps(
                    {"Records": [{"SequenceNumber": "1"}] * len(json.loads(body)["Records"])}
                ).encode()
            self.send_response(200)
            self.send_header("x-upstream", "yes")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST = do_any

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    with Proxy(upstream.url) as proxy:
        yield proxy


def call(
    proxy: Proxy, service: str = "kinesis", operation: str = "PutRecords", body: bytes = b"{}"
) -> object:
    headers = {"Authorization": SIGNED.format(service), "X-Amz-Target": f"Any_1.{operation}"}
    return http.request("POST", f"{proxy.url}/", body=body, headers=headers)


def put(proxy: Proxy, body: bytes = b"object") -> object:
    return http.request(
        "PUT", f"{proxy.url}/bucket/a%2Fb?x=%20", body=body, headers={"Authorization": SIGNED.format("s3")}
    )


@pytest.mark.parametrize(
    ("records", "breach"), [([], True), ([{"Data": "eA==", "PartitionKey": "d"}], False)]
)
def test_only_requests_that_aws_would_reject_are_recorded_as_breaches_and_all_are_passed_on(
    upstream, records, breach
) -> None:
    headers = {"authorization": SIGNED.format("kinesis"), "x-amz-target": "Kinesis_20131202.PutRecords"}
    with Proxy(upstream.url) as proxy:
        body = json.dumps({"StreamName": "s", "Records": records}).encode()
        http.request("POST", proxy.url + "/", body=body, headers=headers)
        assert bool(proxy.breaches) is breach
    assert upstream.requests[-1][3] == body


def test_call_without_a_matching_rule_is_passed_on_unchanged(proxy: Proxy, upstream: Upstream) -> None:
    packed = gzip.compress(b"twice")
    url = f"{proxy.url}/bucket/a%2Fb%20c?list=&x=%2F"
    answer = http.request("PUT", url, body=packed, headers={"content-encoding": "gzip", "x-a": "1"})
    assert (answer.status, answer.data, answer.headers["x-upstream"]) == (200, packed, "yes")
    ((method, path, headers, body),) = upstream.requests
    assert (method, path, body) == ("PUT", "/bucket/a%2Fb%20c?list=&x=%2F", packed)
    assert (headers["content-encoding"], headers["x-a"]) == ("gzip", "1")


@pytest.mark.parametrize(
    ("fault", "status"), [(Fault.REFUSED, 503), (Fault.THROTTLED, 503), (Fault.WRONG_BYTES, 200)]
)
def test_fault_affects_only_the_service_named_in_its_rule_while_the_rule_is_active(
    proxy: Proxy, upstream: Upstream, fault: Fault, status: int
) -> None:
    with proxy.rules(rule := Rule(fault, "s3")):
        assert put(proxy).status == status
        assert call(proxy).status == 200, "the rule was applied to another service"
    assert put(proxy).status == 200, "the removed rule was applied"
    assert rule.applied == 1
    assert len(upstream.requests) == 2 + (fault is Fault.WRONG_BYTES)


def test_throttling_fault_returns_the_called_services_error_code(proxy: Proxy) -> None:
    with proxy.rules(Rule(Fault.THROTTLED)):
        for service, code in (
            ("kinesis", "ProvisionedThroughputExceededException"),
            ("events", "ThrottlingException"),
        ):
            answer = call(proxy, service)
            assert (answer.status, json.loads(answer.data)["__type"]) == (400, code)
        assert b"SlowDown" in put(proxy).data


@pytest.mark.parametrize(
    ("fault", "done"),
    [(Fault.CUT_BEFORE, 0), (Fault.CUT_AFTER, 1), (Fault.HALF_ANSWER, 1), (Fault.SILENT, 0)],
)
def test_connection_fault_is_injected_before_or_after_the_call_is_executed(
    proxy: Proxy, upstream: Upstream, fault: Fault, done: int
) -> None:
    with proxy.rules(Rule(fault)), pytest.raises(urllib3.exceptions.HTTPError):
        call(proxy, body=b"{}" * 500)
    assert len(upstream.requests) == done


def test_partial_fault_executes_only_every_second_entry_of_a_batch(proxy: Proxy, upstream: Upstream) -> None:
    with proxy.rules(Rule(Fault.PARTLY)):
        answer = json.loads(
            call(proxy, body=json.dumps({"Records": [{"n": n} for n in range(5)]}).encode()).data
        )
    assert answer["FailedRecordCount"] == 3
    assert ["ErrorCode" in record for record in answer["Records"]] == [True, False, True, False, True]
    assert json.loads(upstream.requests[0][3])["Records"] == [{"n": 1}, {"n": 3}]


def test_invalid_request_fault_permanently_rejects_each_call_that_contains_the_word_poison(
    proxy: Proxy,
) -> None:
    with proxy.rules(Rule(Fault.INVALID)):
        for word, status in ((b"poison", 400), (b"honey", 200)):
            data = base64.b64encode(b'{"note": "' + word + b'"}').decode()
            assert call(proxy, body=json.dumps({"Records": [{"Data": data}]}).encode()).status == status


def test_faults_with_the_same_seed_affect_the_same_calls(proxy: Proxy) -> None:
    def affected(seed: int) -> list[bool]:
        with proxy.rules(Rule(Fault.REFUSED, share=0.5, seed=seed)):
            return [put(proxy).status == 503 for _ in range(30)]

    assert affected(1) == affected(1) != affected(2)
    assert 5 < sum(affected(3)) < 25


def test_fault_rule_applies_at_most_the_given_number_of_times(proxy: Proxy) -> None:
    with proxy.rules(Rule(Fault.REFUSED, times=2)):
        assert [put(proxy).status for _ in range(4)] == [503, 503, 200, 200]


def test_connections_are_refused_until_the_proxy_listens_again(proxy: Proxy) -> None:
    assert put(proxy).status == 200
    proxy.stop_listening()
    with pytest.raises(urllib3.exceptions.HTTPError):
        put(proxy)
    proxy.listen()
    assert put(proxy).status == 200


CALLER = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], data=b"{}", headers={"Authorization": sys.argv[2]})
try:
    urllib.request.urlopen(request).read()
except OSError:
    pass
print("done")
"""


def test_kill_fault_kills_only_the_caller_named_in_its_rule(upstream: Upstream) -> None:
    names: dict[int, str] = {}
    with Proxy(upstream.url, processes=lambda: names) as proxy:
        command = [sys.executable, "-c", CALLER, proxy.url + "/", SIGNED.format("sqs")]
        with proxy.rules(Rule(Fault.KILL_AFTER, "sqs", caller="loader", times=1)):
            other = subprocess.Popen(command, stdout=subprocess.PIPE)
            names[other.pid] = "another"
            assert other.communicate(timeout=20)[0] == b"done\n"
            assert other.returncode == 0
            caller = subprocess.Popen(command, stdout=subprocess.PIPE)
            names[caller.pid] = "loader"
            assert caller.communicate(timeout=20)[0] == b""
            assert caller.returncode == -9
        assert [path for _, path, _, _ in upstream.requests] == ["/", "/"], "both calls were executed"
        assert proxy.calls["another → sqs "] == proxy.calls["loader → sqs "] == 1


def test_caller_of_a_connection_that_was_not_found_at_first_is_looked_up_again(upstream: Upstream) -> None:
    """The kernel can omit a connection from /proc/net/tcp while other connections are opened or closed."""
    names: dict[int, str] = {}
    with (
        Proxy(upstream.url, processes=lambda: names) as proxy,
        urllib3.PoolManager(num_pools=1, maxsize=1, retries=False, timeout=5) as kept_alive,
    ):
        for known in ({}, {os.getpid(): "loader"}):
            names |= known
            headers = {"Authorization": SIGNED.format("sqs")}
            assert kept_alive.request("POST", proxy.url + "/", headers=headers).status == 200
    assert (proxy.calls["? → sqs "], proxy.calls["loader → sqs "]) == (1, 1)


def test_slow_fault_delays_the_call_but_executes_it(proxy: Proxy, upstream: Upstream) -> None:
    began = time.monotonic()
    with proxy.rules(Rule(Fault.SLOW, seconds=0.3)):
        assert call(proxy).status == 200
    assert time.monotonic() - began >= 0.3
    assert len(upstream.requests) == 1
