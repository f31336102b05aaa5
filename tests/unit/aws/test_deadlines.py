"""Test that a call ends at its deadline, even if the peer is slow, silent, or unreachable at many addresses."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aws import http
from aws.archive import Archive
from aws.credentials import FixedCredentials
from aws.errors import NoResponseError
from aws.http import Endpoint, Signer
from contract.archive_object import lines_object
from tests.unit.contract.test_archive_object import AT

CREDENTIALS = FixedCredentials("AKID", "secret", None)
CALL_SECONDS = 0.4
# Delay that a busy machine may add to a call. A call without a deadline would take even longer.
SLACK_SECONDS = 2.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True)
def short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CALL_SECONDS", CALL_SECONDS)
    monkeypatch.setattr(http, "CONNECT_SECONDS", CALL_SECONDS / 2)
    monkeypatch.setattr(http, "ADDRESS_SECONDS", CALL_SECONDS / 16)


@contextmanager
def peer(parts: list[bytes], pause: float, certificate: Path | None = None) -> Iterator[str]:
    """Run a server that reads a request, sends `parts` with a pause before each, and then stays silent.

    Yields its URL.
    """
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if certificate:
        tls.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    if certificate:
                        connection = tls.wrap_socket(connection, server_side=True)
                    connection.recv(65536)
                    for part in parts:
                        over.wait(pause)
                        connection.sendall(part)
                    over.wait(5)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def endpoint(url: str) -> Endpoint:
    return Endpoint("Kinesis", url, Signer(CREDENTIALS, "eu-west-1", "kinesis"))


def seconds_of_a_failing_call(url: str, body: bytes = b"{}") -> float:
    began = time.monotonic()
    with pytest.raises(NoResponseError):
        endpoint(url).send("POST", "/", {}, body)
    return time.monotonic() - began


@given(cut=st.integers(0, len(ANSWER) - 1), pause=st.sampled_from([0.0, 0.05, 0.15]))
@settings(deadline=None, max_examples=12)
def test_call_ends_in_time_if_the_peer_sends_slowly_or_stops_sending(cut: int, pause: float) -> None:
    parts = [bytes([byte]) for byte in ANSWER[:cut]]
    with peer(parts, pause) as url:
        assert seconds_of_a_failing_call(url) <= CALL_SECONDS + SLACK_SECONDS


def test_call_over_tls_ends_in_time_if_the_peer_sends_slowly(trusted: Path) -> None:
    with peer([bytes([byte]) for byte in ANSWER], 0.05, trusted) as url:
        assert seconds_of_a_failing_call(url) <= CALL_SECONDS + SLACK_SECONDS


def test_call_over_tls_ends_in_time_if_the_peer_stops_reading(trusted: Path) -> None:
    with peer([], 0, trusted) as url:
        assert seconds_of_a_failing_call(url, b"x" * 8_000_000) <= CALL_SECONDS + SLACK_SECONDS


def test_call_ends_in_time_if_the_peer_reads_nothing() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert seconds_of_a_failing_call(url, b"x" * 8_000_000) <= CALL_SECONDS + SLACK_SECONDS


def addresses(monkeypatch: pytest.MonkeyPatch, unreachable: int, url: str | None) -> None:
    """Make host names resolve to addresses that accept no connection, followed by the address of `url`, if given."""
    dead = socket.create_server(("127.0.0.1", 0), backlog=0)
    full = [socket.socket() for _ in range(4)]  # fill the backlog, so that no other connection is accepted
    for each in full:
        each.setblocking(False)
        each.connect_ex(dead.getsockname())
    found: list[object] = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", dead.getsockname())] * unreachable
    if url:
        host, _, port = url.rpartition("/")[2].partition(":")
        found.append((socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, int(port))))
    monkeypatch.setattr(http, "resolve", lambda *_: found)
    monkeypatch.setattr(http, "_kept_open", (dead, full), raising=False)


@pytest.mark.parametrize("unreachable", [1, 8, 40])
def test_unreachable_addresses_share_one_deadline(monkeypatch: pytest.MonkeyPatch, unreachable: int) -> None:
    addresses(monkeypatch, unreachable, None)
    assert seconds_of_a_failing_call("http://a.name.test") <= CALL_SECONDS + SLACK_SECONDS


def test_reachable_address_is_used_after_unreachable_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with peer([ANSWER], 0) as url:
        addresses(monkeypatch, 3, url)
        monkeypatch.setattr(http, "CALL_SECONDS", 4)
        monkeypatch.setattr(http, "CONNECT_SECONDS", 2)  # each of the four addresses gets a quarter of it
        assert endpoint("http://a.name.test").send("POST", "/", {}, b"{}").status == 200


def test_call_ends_in_time_if_name_resolution_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolver.wait(5) or [])
    try:
        assert seconds_of_a_failing_call("http://a.name.test") <= CALL_SECONDS + SLACK_SECONDS
    finally:
        resolver.set()


def test_call_ends_in_time_if_the_tls_handshake_hangs() -> None:
    with peer([], 0) as url:
        assert seconds_of_a_failing_call(url.replace("http:", "https:")) <= CALL_SECONDS + SLACK_SECONDS


def test_all_attempts_of_a_call_fit_into_the_time_budget_that_the_handler_has_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """STORE_SECONDS must cover three attempts and the longest pauses between them. STREAM_SECONDS and ENQUEUE_SECONDS
    must cover the attempts that a Lambda function makes (FUNCTION_TRIES).
    """
    from aws.retry import FUNCTION_TRIES, TRIES
    from handler.ingest import ENQUEUE_SECONDS, STORE_SECONDS, STREAM_SECONDS

    pauses: list[float] = []
    monkeypatch.setattr("aws.retry.jitter", lambda most: most)
    monkeypatch.setattr("aws.retry.sleep", pauses.append)
    archive = Archive("bucket", region="eu-west-1", credentials=CREDENTIALS, url="http://127.0.0.1:9")
    with pytest.raises(NoResponseError):
        archive.store(lines_object("events", [b"{}"], AT), {})
    real_call = 3.0
    assert TRIES * real_call + sum(pauses) <= STORE_SECONDS
    assert FUNCTION_TRIES["kinesis"] * real_call <= STREAM_SECONDS
    assert FUNCTION_TRIES["sqs"] * real_call <= ENQUEUE_SECONDS
