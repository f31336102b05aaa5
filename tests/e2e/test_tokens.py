"""Test the ingest function when it requires tokens, including an outage of the identity provider and tokens
signed with unknown keys.
"""

import json
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from contract import logs
from ops.read_log_lines import log_lines
from ops.stage_outputs import Outputs, TokenIssuer
from tests.e2e.faults import environment_of
from tests.e2e.pipeline import Answer, Event, Pipeline, crossing, event, eventually
from tools.fleet.client import Client
from tools.fleet.event_file import posts_of_file
from tools.stack.identity import Tokens, public_jwk

AUDIENCE = "e2e-app"


def new_key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


@dataclass
class Provider:
    """An identity provider that counts the requests for its keys (`asked`), and returns 503 while `is_down` is true.

    `tokens` creates tokens signed with its key, and `strangers` tokens signed with a key that it does not publish.
    """

    folder: Path
    is_down: bool = False
    asked: int = 0
    url: str = ""
    tokens: Tokens = field(init=False)
    strangers: Tokens = field(init=False)
    keys: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.keys = json.dumps({"keys": [public_jwk(new_key(self.folder / "own.pem"))]}).encode()
        new_key(self.folder / "stranger.pem")

    @contextmanager
    def running(self) -> Iterator["Provider"]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                self.send_response(503 if provider.is_down else 200)
                self.end_headers()
                self.wfile.write(b"" if provider.is_down else provider.keys)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            self.url = f"http://127.0.0.1:{server.server_port}"
            self.tokens, self.strangers = (
                Tokens(TokenIssuer(issuer=self.url, audience=AUDIENCE, private_key_file=self.folder / name))
                for name in ("own.pem", "stranger.pem")
            )
            yield self
            server.shutdown()


@pytest.fixture(scope="module")
def provider(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with Provider(tmp_path_factory.mktemp("provider")).running() as made:
        changes = {
            "IDENTITY": "required",
            "JWT_ISSUER": made.url,
            "JWT_AUDIENCE": AUDIENCE,
            "JWT_JWKS_URL": f"{made.url}/keys",
        }
        with environment_of(pipeline, "ingest", changes):
            yield made


def lines(pipeline: Pipeline) -> Iterator[Event]:
    now = datetime.now(UTC)
    span = {"start": now - timedelta(minutes=2), "end": now + timedelta(minutes=1)}
    for _, line in log_lines(pipeline.outputs, "local", "ingest", logs.EVENTS_INGESTED, **span):
        yield line


def post(pipeline: Pipeline, token: str, *events: dict[str, object]) -> Answer:
    return pipeline.post(*events, headers={"authorization": f"Bearer {token}"})


def test_token_is_valid_only_for_events_of_its_own_device(
    pipeline: Pipeline, provider: Provider, device: str
) -> None:
    mine, invented = (
        crossing(device, "enter", datetime.now(UTC)),
        crossing(f"{device}-other", "enter", datetime.now(UTC)),
    )
    answer = post(pipeline, provider.tokens(device), mine, invented)
    assert (answer.status, answer.body["accepted"], answer.body["rejected"]) == (202, 1, 1)
    assert [error["code"] for error in answer.body["errors"]] == ["device_mismatch"]
    [kept] = pipeline.archived(str(answer.body["rejected_key"]))
    assert kept["event"] == invented
    assert eventually(lambda: [stay.device_id for stay in pipeline.visits_of(device)] == [device])
    assert pipeline.visits_of(f"{device}-other") == []
    line = eventually(
        lambda: next(
            (line for line in lines(pipeline) if line["request_id"] == answer.body["request_id"]), None
        )
    )
    assert (line["credential"], line["rejected_by_code"]) == ("token", {"device_mismatch": 1})


def test_request_without_a_valid_token_is_refused(
    pipeline: Pipeline, provider: Provider, device: str
) -> None:
    own = event(device)
    expired = {"device_id": device, "exp": int(time.time()) - 600}
    elsewhere = {"device_id": device, "exp": int(time.time()) + 600, "aud": "another-app"}
    codes = [pipeline.post(own).body["code"]]
    codes += [
        post(pipeline, token, own).body["code"]
        for token in (
            provider.tokens.sign(expired),
            provider.tokens.sign(elsewhere),
            provider.strangers(device),
        )
    ]
    assert codes == ["missing_token", "token_expired", "invalid_token", "invalid_token"]


def test_unknown_key_ids_do_not_cause_repeated_requests_to_the_identity_provider(
    pipeline: Pipeline, provider: Provider, device: str
) -> None:
    assert post(pipeline, provider.tokens(device), event(device)).status == 202
    before = provider.asked
    for n in range(10):
        assert post(pipeline, provider.strangers(f"{device}-{n}"), event(device)).status == 401
    assert provider.asked - before <= 1


def test_cached_keys_are_used_while_the_identity_provider_is_down(
    pipeline: Pipeline, provider: Provider, device: str
) -> None:
    assert post(pipeline, provider.tokens(device), event(device)).status == 202
    provider.is_down = True
    try:
        other = f"{device}-2"
        assert post(pipeline, provider.tokens(other), event(other)).status == 202
    finally:
        provider.is_down = False


def test_sample_traffic_is_sent_with_a_separate_token_for_each_device(
    pipeline: Pipeline, provider: Provider, device: str, tmp_path: Path
) -> None:
    events = [event(f"{device}-{n % 3}") for n in range(9)] + [{"type": "no id", "userId": "u"}]
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join(map(json.dumps, events)))
    client = Client.of(pipeline.outputs.model_copy(update={"token_issuer": provider.tokens.issuer}))
    deliveries = [delivery for each in posts_of_file(file) for delivery in client.deliver(each)]
    assert [delivery.status for delivery in deliveries] == [202, 202, 202]
    assert sum(int(str(delivery.answer["accepted"])) for delivery in deliveries) == 9


def test_operator_can_invoke_the_ingest_function_without_a_token(
    pipeline: Pipeline, provider: Provider, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    required = pipeline.outputs.model_copy(update={"ingest_function": "milkrun-local-ingest"})
    monkeypatch.setattr(Outputs, "find", lambda *_: required)
    done = pipeline.ops("smoke", "--json")
    assert (done.exit_code, [row["seen"] for row in done.result]) == (0, [True] * 4), done.output


@pytest.mark.slow
def test_verify_gets_tokens_from_the_local_issuer_or_from_the_token_command(
    pipeline: Pipeline, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = provider.tokens.issuer.model_dump(mode="json")
    own = json.loads(Path(pipeline.environment["MILKRUN_LOCAL"], "outputs.json").read_text())
    monkeypatch.setattr(pipeline, "environment", {**pipeline.environment, "MILKRUN_LOCAL": str(tmp_path)})
    verify = (
        "verify",
        "--tests",
        "test_every_refused_request_gets_the_documented_code and field",
        "--no-marts",
        "--json",
    )
    program = (
        "import sys; from ops.stage_outputs import TokenIssuer; from tools.stack.identity import Tokens; "
        f"print(Tokens(TokenIssuer(**{issuer}))(sys.argv[1]))"
    )
    command = shlex.join([sys.executable, "-c", program])
    for more, options in (({"token_issuer": issuer}, ()), ({}, ("--token-command", command))):
        changed = json.dumps({**own, "ingest_function": "milkrun-local-ingest", **more})
        (tmp_path / "outputs.json").write_text(changed)
        outcomes = [each["outcome"] for each in pipeline.ops(*verify, *options).result["tests"]]
        assert outcomes == ["passed"]
    assert "--token-command" in pipeline.ops(*verify).output
