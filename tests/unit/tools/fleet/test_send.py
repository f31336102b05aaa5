"""Test that the sender treats every kind of response as README.md prescribes. Also test the
limits and the figures of `milkrun send`. The responses come from a server on loopback.
"""

import gzip
import json
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cli.refusal import Refusal
from ops import terminal
from ops.percentile import percentile
from tools.fleet.client import Client, send
from tools.fleet.event_file import posts_of_file, read_lines
from tools.fleet.phones import Post
from tools.fleet.rounds import Planned
from tools.fleet.send import Tally, until_events
from tools.milkrun import app

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)

# Status, headers and body; None closes the connection without a response.
type Answer = tuple[int, dict[str, str], bytes] | None


@contextmanager
def server(
    answer: Callable[[int, bytes], Answer],
) -> Iterator[tuple[str, list[tuple[bytes, dict[str, str]]]]]:
    """Start a server that responds with `answer(request number, body)`; yield its URL and the list of the requests
    that it has received, each as (body, headers).
    """
    got: list[tuple[bytes, dict[str, str]]] = []
    numbers = count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet; otherwise, the client delays its ACK by 40 ms

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((body, {name.lower(): value for name, value in self.headers.items()}))
            reply = answer(next(numbers), body)
            if reply is None:
                self.close_connection = True
                return
            status, headers, text = reply
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1/events", got
    finally:
        httpd.shutdown()
        httpd.server_close()


def receipt(body: bytes) -> Answer:
    n = len(body.splitlines())
    answer = {"received": n, "accepted": n, "duplicates": 0, "rejected": 0, "errors": []}
    return 202, {}, json.dumps(answer).encode()


def post(*texts: str, gzipped: bool = False) -> Post:
    return Post(tuple(Planned(text, text) for text in texts), NOW, gzipped=gzipped)


def client(url: str, timeout_s: float = 5) -> Client:
    return Client(url, "the-key", timeout_s=timeout_s, first_pause=0.001)


def test_batch_counts_as_delivered_after_a_2xx_response_and_its_receipt_is_returned() -> None:
    with server(lambda _, body: receipt(body)) as (url, got):
        [delivery] = client(url).deliver(post("a", "b"))
    assert (delivery.fate, delivery.status, delivery.answer["accepted"]) == ("delivered", 202, 2)
    assert got[0][0] == b"a\nb"
    assert got[0][1]["x-api-key"] == "the-key"
    assert got[0][1]["content-type"] == "application/x-ndjson"
    assert "content-encoding" not in got[0][1]


def test_gzip_encoding_is_declared_in_a_header() -> None:
    with server(lambda _, body: receipt(body)) as (url, got):
        client(url).deliver(post("a", gzipped=True))
    assert gzip.decompress(got[0][0]) == b"a"
    assert got[0][1]["content-encoding"] == "gzip"


def test_batch_is_dropped_after_a_400_response() -> None:
    with server(lambda *_: (400, {}, b'{"code":"no_valid_event","received":1}')) as (url, got):
        [delivery] = client(url).deliver(post("a"))
    assert (delivery.fate, delivery.status, len(got)) == ("dropped", 400, 1)


@pytest.mark.parametrize("first", [429, 503, 500, 504, 401, 403, 404, 408, 415, None])
def test_identical_bytes_are_resent_after_a_retryable_or_missing_response(first: int | None) -> None:
    def answer(n: int, body: bytes) -> Answer:
        if n >= 2:
            return receipt(gzip.decompress(body))
        return None if first is None else (first, {}, b"not json")

    with server(answer) as (url, got):
        [delivery] = client(url).deliver(post("a", "b", gzipped=True))
    assert delivery.fate == "delivered"
    assert delivery.statuses == (first, first, 202)
    assert len({body for body, _ in got}) == 1


@pytest.mark.parametrize("status", [200, 202, 400])
@pytest.mark.parametrize(
    "text",
    [b"", b"<html>Sign in</html>", b'["received"]', b'{"code":"refused_by_gateway","request_id":"r"}'],
    ids=["empty", "page", "array", "gateway"],
)
def test_identical_bytes_are_resent_after_a_2xx_or_400_response_without_a_receipt(
    status: int, text: bytes
) -> None:
    """Only Milkrun sends a receipt, and only after it has stored the events."""
    with server(lambda n, body: receipt(body) if n else (status, {}, text)) as (url, got):
        [delivery] = client(url).deliver(post("a", "b"))
    assert (delivery.fate, delivery.statuses) == ("delivered", (status, 202))
    assert got[0][0] == got[1][0]


def test_events_after_a_2xx_response_without_a_receipt_count_as_undelivered() -> None:
    tally = Tally()
    with server(lambda *_: (200, {}, b"<html>Sign in</html>")) as (url, _):
        for delivery in client(url, timeout_s=0.05).deliver(post("a", "b")):
            tally.add(delivery)
    figures = tally.figures(elapsed=1.0)
    assert (figures["accepted"], figures["dropped"], figures["undelivered"]) == (0, 0, 2)


def test_pauses_between_retries_get_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    with server(lambda n, body: (503, {}, b"") if n < 4 else receipt(body)) as (url, _):
        sender = client(url)
        monkeypatch.setattr(sender._stopped, "wait", pauses.append)  # record the pauses instead of waiting
        sender.deliver(post("a"))
    assert len(pauses) == 4
    assert all(after > before for before, after in pairwise(pauses))
    assert pauses[3] > 4 * pauses[0]


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_header_delays_the_next_attempt(as_date: bool) -> None:
    def wanted() -> str:
        return formatdate(time.time() + 3, usegmt=True) if as_date else "1"  # an HTTP date has whole seconds

    with server(lambda n, body: receipt(body) if n else (429, {"retry-after": wanted()}, b"")) as (url, _):
        began = time.monotonic()
        client(url).deliver(post("a"))
    assert time.monotonic() - began >= 1


def test_request_is_kept_if_retry_after_is_later_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(lambda n, body: receipt(body) if n else (429, {"retry-after": "100"}, b"")) as (url, got):
        sender = client(url, timeout_s=60)
        monkeypatch.setattr(sender._stopped, "wait", lambda _: False)  # skips the pause
        [delivery] = sender.deliver(post("a"))
    assert (delivery.fate, len(got)) == ("kept", 1)


def test_invalid_retry_after_header_is_ignored() -> None:
    with server(lambda n, body: receipt(body) if n else (429, {"retry-after": "soon"}, b"")) as (url, _):
        [delivery] = client(url).deliver(post("a"))
    assert delivery.statuses == (429, 202)


def test_request_with_a_token_contains_no_events_of_another_device() -> None:
    user = '{"deviceId":"b"}'
    texts = (
        '{"deviceId":"a","_id":"1"}',
        '{"user":{"deviceId":"b"},"deviceId":"c","_id":"2"}',
        '{"_id":"3","user":null}',
        "not json",
        '{"_id":"4","deviceId":"a"}',
    )
    events = tuple(Planned(text, text) for text in texts)
    posts = [Post(events, NOW), Post(events[2:3], NOW, "envelope", user), Post(events[3:4], NOW)]
    with server(lambda _, body: receipt(body)) as (url, got):
        sender = Client(url, "k", token_of=lambda device, _: f"token of {device}")
        deliveries = [delivery for each in posts for delivery in sender.deliver(each)]
    assert {delivery.fate for delivery in deliveries} == {"delivered"}
    sent = [(headers["authorization"].removeprefix("Bearer token of "), body) for body, headers in got]
    assert [device for device, _ in sent] == ["a", "b", "b", "milkrun-send"]
    assert sent[0][1].splitlines() == [texts[n].encode() for n in (0, 2, 3, 4)]


def test_batch_is_split_after_each_413_response_until_it_is_accepted() -> None:
    def answer(_: int, body: bytes) -> Answer:
        return receipt(body) if len(body.splitlines()) <= 2 else (413, {}, b"{}")

    with server(answer) as (url, _):
        deliveries = client(url).deliver(post(*"abcdefg"))
    assert [event.text for d in deliveries for event in d.post.events] == list("abcdefg")
    assert {d.fate for d in deliveries} == {"delivered"}


def test_single_event_is_dropped_after_a_413_response() -> None:
    with server(lambda *_: (413, {}, b"{}")) as (url, got):
        deliveries = client(url).deliver(post("a", "b"))
    assert [d.fate for d in deliveries] == ["dropped", "dropped"]
    assert len(got) == 3


def test_undelivered_events_stay_on_the_phone_after_the_timeout() -> None:
    with server(lambda *_: (503, {}, b"{}")) as (url, _):
        [delivery] = client(url, timeout_s=0.1).deliver(post("a"))
    assert (delivery.fate, delivery.status) == ("kept", 503)


def test_events_for_an_unreachable_server_stay_on_the_phone() -> None:
    with server(lambda _, body: receipt(body)) as (url, _):
        pass
    [delivery] = client(url, timeout_s=0.05).deliver(post("a"))
    assert (delivery.fate, delivery.status) == ("kept", None)


def test_sender_reads_requests_lazily_and_returns_results_in_order() -> None:
    drawn = 0

    def stream() -> Iterator[Post]:
        nonlocal drawn
        for n in range(200):
            drawn += 1
            yield post(str(n))

    with server(lambda _, body: receipt(body)) as (url, _):
        deliveries = send(stream(), client(url), concurrency=3)
        first = next(deliveries)
        assert drawn <= 7
        rest = [d.post.events[0].text for d in deliveries]
    assert [first.post.events[0].text, *rest] == [str(n) for n in range(200)]


def test_number_of_events_sent_per_second_is_limited() -> None:
    with server(lambda _, body: receipt(body)) as (url, _):
        began = time.monotonic()
        list(send((post("a", "b") for _ in range(11)), client(url), events_per_second=40))
    assert 0.45 <= time.monotonic() - began < 2


def test_closing_the_sender_interrupts_the_pause_before_a_retry() -> None:
    with server(lambda n, body: receipt(body) if n == 0 else (503, {}, b"")) as (url, _):
        deliveries = send((post(str(n)) for n in range(9)), Client(url, "k", first_pause=30), concurrency=1)
        next(deliveries)
        began = time.monotonic()
        deliveries.close()
    assert time.monotonic() - began < 5


def test_sending_ends_after_exactly_the_requested_number_of_events() -> None:
    posts = list(until_events((post("a", "b", "c") for _ in count()), 7))
    assert [len(each.events) for each in posts] == [3, 3, 1]


@pytest.mark.parametrize(
    ("seconds", "rate", "least", "most"), [(0, math.inf, 0, 0), (0.05, math.inf, 2, 1000), (0.05, 0.01, 1, 1)]
)
def test_sending_ends_after_the_requested_duration_even_at_a_slow_rate(
    seconds: float, rate: float, least: int, most: int
) -> None:
    began = time.monotonic()
    with server(lambda _, body: receipt(body)) as (url, got):
        endless = (post("a") for _ in count())
        deliveries = list(send(endless, client(url), events_per_second=rate, seconds=seconds))
    assert least <= len(got) == len(deliveries) <= most
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "pack", [lambda b: b, gzip.compress, lambda b: gzip.compress(b[:5]) + gzip.compress(b[5:])]
)
def test_malformed_lines_of_a_plain_or_gzip_file_are_sent_unchanged(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(pack(b'{"_id":"a"}\r\n\n{"_id":"\xff"}\n  \nnot json'))
    [only] = posts_of_file(file, gzipped=False)
    assert only.body() == b'{"_id":"a"}\n{"_id":"\xff"}\nnot json'
    assert len(list(read_lines(file))) == 3


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:30] + b"?" * 40])
def test_damaged_gzip_file_is_refused_with_an_error_that_names_it(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "events.gz"
    file.write_bytes(damage(gzip.compress(random.Random(1).randbytes(900))))
    with pytest.raises(Refusal, match=r"events\.gz cannot be read completely"):
        list(read_lines(file))


def test_file_is_split_into_requests_by_event_count_and_size(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text("".join(f"{n:09}\n" for n in range(25)))
    assert [len(p.events) for p in posts_of_file(file, batch_size=10)] == [10, 10, 5]
    assert [len(p.events) for p in posts_of_file(file, max_bytes=70)] == [7, 7, 7, 4]
    assert [len(p.events) for p in posts_of_file(file, max_bytes=3)] == [1] * 25


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt, because a shell starts background processes with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_sending_and_prints_the_figures_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(number: int, body: bytes) -> Answer:
        if number == 10:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return receipt(body)

    with server(answer) as (url, _):
        stage = SimpleNamespace(endpoint=url, api_key="the-key", token_issuer=None)
        monkeypatch.setattr(terminal, "outputs_of", lambda _context, _stage: stage)
        ended = CliRunner().invoke(app, ["send", "--duration", "60", "--concurrency", "1", "--json"], obj={})
    assert ended.exit_code == 130
    assert json.loads(ended.stdout)["requests"] >= 8


def test_sending_for_0_seconds_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(lambda _, body: receipt(body)) as (url, got):
        stage = SimpleNamespace(endpoint=url, api_key="the-key", token_issuer=None)
        monkeypatch.setattr(terminal, "outputs_of", lambda _context, _stage: stage)
        ended = CliRunner().invoke(app, ["send", "--duration", "0", "--json"], obj={})
    assert (ended.exit_code, got) == (0, [])
    assert json.loads(ended.stdout)["events"] == 0


@pytest.mark.parametrize("arguments", [["send"], ["demo"], ["demo", "--live"]], ids=" ".join)
def test_sample_events_are_sent_to_a_deployed_stage_only_after_confirmation(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(lambda _, body: receipt(body)) as (url, got):
        stage = SimpleNamespace(endpoint=url, api_key="the-key", console_url="")
        monkeypatch.setattr(terminal, "outputs_of", lambda _context, _stage: stage)
        ended = CliRunner().invoke(app, [*arguments, "--stage", "prod"], obj={}, input="n\n")
    assert (ended.exit_code, got) == (1, [])
    assert "Send events of sample trucks and farms to stage prod?" in ended.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "--trucks", "5", "--seed", "2", "--file"], "--trucks, --seed can be used only"),
        (["send", "--run", "0a1b2c3d", "--begin", "now", "--file"], "--run, --begin can be used only"),
        (["demo", "--farms", "5", "--events"], "--farms can be used only"),
    ],
)
def test_options_for_sample_traffic_are_refused_with_a_file(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text("{}")
    ended = CliRunner().invoke(app, [*arguments, str(file), "--stage", "dev"], obj={})
    assert ended.exit_code == 2
    assert said in ended.output


def test_demo_refuses_to_change_the_credentials_of_a_deployed_stage() -> None:
    ended = CliRunner().invoke(app, ["demo", "--stage", "dev", "--auth", "jwt", "--yes"], obj={})
    assert ended.exit_code == 2
    assert "--auth changes only the local stack" in ended.output


def test_tally_sums_receipts_and_counts_one_error_code_per_rejected_event() -> None:
    errors = [
        {"index": 1, "code": "missing_id"},
        {"index": 1, "code": "missing_type"},
        {"index": 2, "code": "x"},
    ]
    answer = {"received": 4, "accepted": 1, "duplicates": 1, "rejected": 2, "errors": errors}
    tally = Tally()
    with server(lambda n, _: (202, {}, json.dumps(answer).encode()) if n else (503, {}, b"")) as (url, _):
        for delivery in client(url).deliver(post("a", "b", "c", "d")):
            tally.add(delivery)
    figures = tally.figures(elapsed=2.0)
    assert figures["accepted"] == 1
    assert figures["duplicates"] == 1
    assert figures["rejected"] == {"missing_id": 1, "x": 1}
    assert figures["statuses"] == {"202": 1, "503": 1}
    assert figures["sent_again"] == 1
    assert figures["events_per_s"] == 2.0
    assert figures["dropped"] == 0


def test_tally_counts_the_rejected_events_whose_reasons_a_long_response_omits() -> None:
    errors = [{"index": 0, "code": "missing_id"}, {"index": 0, "code": "missing_type"}]
    answer = {"received": 3, "accepted": 0, "rejected": 3, "errors": errors, "errors_omitted": 4}
    tally = Tally()
    with server(lambda *_: (202, {}, json.dumps(answer).encode())) as (url, _):
        for delivery in client(url).deliver(post("a", "b", "c")):
            tally.add(delivery)
    assert tally.figures(1.0)["rejected"] == {"reason_not_listed": 2, "missing_id": 1}


def test_events_dropped_after_a_413_response_are_counted_in_the_figures() -> None:
    tally = Tally()
    with server(lambda *_: (413, {}, b"{}")) as (url, _):
        for delivery in client(url).deliver(post("a", "b")):
            tally.add(delivery)
    figures = tally.figures(elapsed=2.0)
    assert (figures["events"], figures["dropped"], figures["accepted"], figures["undelivered"]) == (
        2,
        2,
        0,
        0,
    )


def test_percentile_is_a_measured_value_or_0_if_there_are_none() -> None:
    assert [percentile([3, 1, 2, 4], p) for p in (50, 75, 99, 100)] == [2, 3, 4, 4]
    assert percentile([], 95) == 0
