"""Test that only valid tokens of the identity provider are accepted, and that an outage does not affect known keys."""

import base64
import gzip
import hashlib
import hmac
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from aws.errors import RetryableError
from aws.http import fetch
from contract.settings import SettingsError
from handler.http import RETRY_AFTER_SECONDS, Refused
from handler.identity import (
    KEYS_FRESH_SECONDS,
    KEYS_REFRESH_FLOOR_SECONDS,
    LEEWAY_SECONDS,
    MAX_CACHED_TOKENS,
    MAX_TOKEN_CHARS,
    Keys,
    Speaker,
    Tokens,
    parse_keys,
)
from handler.settings import Settings
from handler.signature import sign
from tests.unit.aws.strict import strict_service
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import World

type Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

ISSUER, AUDIENCE = "https://issuer.example/pool", "app-1"
SETTINGS = {
    "ARCHIVE_BUCKET": "archive",
    "STREAM_NAME": "s",
    "REDRIVE_QUEUE_URL": "q",
    "IDENTITY": "required",
    "JWT_ISSUER": ISSUER,
    "JWT_AUDIENCE": AUDIENCE,
    "JWT_JWKS_URL": f"{ISSUER}/jwks",
}
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: Key, key_id: str, **more: str) -> dict[str, object]:
    algorithm = (
        jwt.algorithms.ECAlgorithm
        if isinstance(key, ec.EllipticCurvePrivateKey)
        else jwt.algorithms.RSAAlgorithm
    )
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig", **more}


@dataclass
class Issuer:
    """A fake identity provider. Its keys may change, and it may be unreachable."""

    keys: list[dict[str, object]] = field(
        default_factory=lambda: [public_jwk(EC_KEY, "ec"), public_jwk(RSA_KEY, "rsa")]
    )
    is_down: bool = False
    answer: bytes | None = None
    fetched: int = 0
    now: float = field(default_factory=time.time)

    def fetch(self) -> bytes:
        self.fetched += 1
        if self.is_down:
            raise RetryableError("down")
        return self.answer if self.answer is not None else json.dumps({"keys": self.keys}).encode()

    def clock(self) -> float:
        return self.now

    def tokens(self, **settings: str) -> Tokens:
        return Tokens(Settings.of({**SETTINGS, **settings}), Keys(self.fetch, self.clock), self.clock)

    def claims(self, **claims: object) -> dict[str, object]:
        return {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "exp": int(self.now) + 600,
            "sub": "driver-7",
            "device_id": "truck-1",
            **claims,
        }

    def token(self, key: Key = EC_KEY, key_id: str = "ec", algorithm: str = "ES256", **claims: object) -> str:
        present = {name: value for name, value in self.claims(**claims).items() if value is not None}
        return jwt.encode(present, key, algorithm, {"kid": key_id})


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


def refused(tokens: Tokens, token: str) -> str:
    with pytest.raises(Refused) as caught:
        tokens.speaker(f"Bearer {token}")
    assert caught.value.status == 401
    return caught.value.code


@pytest.mark.parametrize(
    ("key", "key_id", "algorithm"), [(EC_KEY, "ec", "ES256"), (RSA_KEY, "rsa", "RS256")], ids=["ec", "rsa"]
)
def test_signed_token_identifies_its_device(issuer: Issuer, key: Key, key_id: str, algorithm: str) -> None:
    for audience in (AUDIENCE, ["other", AUDIENCE]):
        token = issuer.token(key, key_id, algorithm, aud=audience)
        assert issuer.tokens().speaker(f"bearer  {token}") == Speaker("token", "truck-1")


def test_claim_that_names_the_device_is_configurable(issuer: Issuer) -> None:
    tokens = issuer.tokens(JWT_DEVICE_CLAIM="custom:truck")
    assert tokens.speaker("Bearer " + issuer.token(**{"custom:truck": "truck-9"})).device == "truck-9"
    assert refused(tokens, issuer.token()) == "token_without_device"


@pytest.mark.parametrize("device", [None, "", 7, ["truck-1"]], ids=["absent", "empty", "number", "list"])
def test_token_without_a_device_is_refused(issuer: Issuer, device: object) -> None:
    assert refused(issuer.tokens(), issuer.token(device_id=device)) == "token_without_device"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"aud": "another-app"},
        {"aud": [AUDIENCE + "2", 7]},
        {"aud": None},
        {"iss": None},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": float("nan")},
        {"nbf": 4_000_000_000},
    ],
    ids=[
        "issuer",
        "audience",
        "audiences",
        "no audience",
        "no issuer",
        "no expiry",
        "expiry as text",
        "expiry NaN",
        "not yet valid",
    ],
)
def test_token_with_an_invalid_audience_issuer_expiry_or_start_time_is_refused(
    issuer: Issuer, claims: dict[str, object]
) -> None:
    assert refused(issuer.tokens(), issuer.token(**claims)) == "invalid_token"


def test_expired_token_is_refused_with_the_code_token_expired(issuer: Issuer) -> None:
    late = int(issuer.now) - LEEWAY_SECONDS - 5
    assert refused(issuer.tokens(), issuer.token(exp=late)) == "token_expired"


def test_cached_token_is_refused_once_it_has_expired(issuer: Issuer) -> None:
    tokens = issuer.tokens()
    token = issuer.token()
    assert tokens.speaker(f"Bearer {token}").device == "truck-1"
    issuer.now += 600 + LEEWAY_SECONDS - 1
    assert tokens.speaker(f"Bearer {token}").device == "truck-1"
    issuer.now += 1
    assert refused(tokens, token) == "token_expired"


def test_token_with_an_issue_time_in_the_future_is_accepted(issuer: Issuer) -> None:
    """The provider's clock may be fast, and in RFC 7519 a token's validity does not depend on `iat`."""
    token = issuer.token(iat=int(issuer.now) + 86_400)
    assert issuer.tokens().speaker(f"Bearer {token}").device == "truck-1"


@pytest.mark.parametrize(
    "token", ["\ud800", "a.\ud800.b", "é.é.é", "\0"], ids=["surrogate", "inner", "not-ascii", "nul"]
)
def test_malformed_token_is_refused(issuer: Issuer, token: str) -> None:
    assert refused(issuer.tokens(), token) == "invalid_token"


def test_token_signed_with_another_key_under_a_known_key_id_is_refused(issuer: Issuer) -> None:
    assert refused(issuer.tokens(), issuer.token(OTHER_KEY)) == "invalid_token"


def test_token_with_an_invalid_part_or_a_critical_header_is_refused(issuer: Issuer) -> None:
    header, payload, signature = issuer.token().split(".")
    deep = base64.urlsafe_b64encode(
        b'{"alg":"ES256","kid":"ec","x":' + b"[" * 3000 + b"]" * 3000 + b"}"
    ).decode()
    critical = {"alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": False}
    for token in (
        f"{header}.{payload}.{signature}.",
        f"{header}.{payload}.extra.{signature}",
        f"{header}.{payload}.{signature[:8]} {signature[8:]}",
        f"{header}.{payload}.",
        f"{header}..{signature}",
        f"{deep}.{payload}.{signature}",
        jwt.encode(issuer.claims(), EC_KEY, "ES256", {"kid": "ec", "crit": ["exp"]}),
        jwt.encode(issuer.claims(), EC_KEY, "ES256", critical),
        jwt.api_jws.encode(b"[]", EC_KEY, "ES256", {"kid": "ec"}),
    ):
        assert refused(issuer.tokens(), token) == "invalid_token"


def encoded(part: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def test_unsigned_token_is_refused(issuer: Issuer) -> None:
    token = f"{encoded({'alg': 'none', 'kid': 'ec'})}.{encoded(issuer.claims())}."
    assert refused(issuer.tokens(), token) == "invalid_token"


def test_token_signed_with_the_public_key_as_hmac_secret_is_refused(issuer: Issuer) -> None:
    text = f"{encoded({'alg': 'HS256', 'kid': 'rsa'})}.{encoded(issuer.claims())}"
    secret = json.dumps(issuer.keys[1]).encode()
    signature = (
        base64.urlsafe_b64encode(hmac.digest(secret, text.encode(), hashlib.sha256)).rstrip(b"=").decode()
    )
    assert refused(issuer.tokens(), f"{text}.{signature}") == "invalid_token"


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_symmetric_algorithms_and_the_algorithm_none_cannot_be_configured(
    issuer: Issuer, algorithm: str
) -> None:
    with pytest.raises(ValueError, match="JWT_ALGORITHMS"):
        issuer.tokens(JWT_ALGORITHMS=f"ES256 {algorithm}")


def test_token_with_an_algorithm_that_the_stage_does_not_list_is_refused(issuer: Issuer) -> None:
    assert refused(issuer.tokens(JWT_ALGORITHMS="RS256"), issuer.token()) == "invalid_token"


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
@settings(deadline=None, max_examples=150)
def test_random_text_is_refused_as_a_token(text: str) -> None:
    tokens = Issuer().tokens()
    for authorization in (text, f"Bearer {text}", f"Bearer {text}.{text}.{text}", f"Basic {text}"):
        with pytest.raises(Refused) as caught:
            tokens.speaker(authorization)
        assert caught.value.code in {"missing_token", "invalid_token"}


@given(st.integers(0, 2), st.integers(0, 400), st.integers(1, 255))
@settings(deadline=None, max_examples=60)
def test_token_with_any_byte_changed_is_refused(part: int, position: int, change: int) -> None:
    issuer = Issuer()
    parts = issuer.token().split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
    raw[position % len(raw)] ^= change
    parts[part] = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    assert refused(issuer.tokens(), ".".join(parts)) in {"invalid_token", "token_without_device"}


def test_token_that_is_too_long_is_refused_without_fetching_keys(issuer: Issuer) -> None:
    assert refused(issuer.tokens(), "a" * (MAX_TOKEN_CHARS + 1)) == "invalid_token"
    assert issuer.fetched == 0


def test_token_cache_is_bounded_and_evicts_the_least_recently_used_token(issuer: Issuer) -> None:
    tokens = issuer.tokens()
    first, second = issuer.token(jti="first"), issuer.token(jti="second")
    tokens.speaker(f"Bearer {first}")
    tokens.speaker(f"Bearer {second}")
    for n in range(MAX_CACHED_TOKENS + 20):
        tokens.speaker("Bearer " + issuer.token(jti=str(n)))
        if n % 100 == 0:
            tokens.speaker(f"Bearer {first}")
    before = tokens._verified.cache_info()
    assert before.currsize == MAX_CACHED_TOKENS
    tokens.speaker(f"Bearer {first}")
    assert tokens._verified.cache_info().hits == before.hits + 1
    tokens.speaker(f"Bearer {second}")
    assert tokens._verified.cache_info().misses == before.misses + 1


# --- keys ---------------------------------------------------------------------------------------


def test_keys_are_fetched_once_for_many_tokens(issuer: Issuer) -> None:
    tokens = issuer.tokens()
    for n in range(20):
        tokens.speaker("Bearer " + issuer.token(jti=str(n)))
    assert issuer.fetched == 1


def test_unknown_key_ids_cause_at_most_one_key_fetch_per_minute(
    issuer: Issuer,
) -> None:
    tokens = issuer.tokens()
    tokens.speaker("Bearer " + issuer.token())
    issuer.keys.append(public_jwk(OTHER_KEY, "new"))
    issuer.now += KEYS_REFRESH_FLOOR_SECONDS
    assert tokens.speaker("Bearer " + issuer.token(OTHER_KEY, "new")).device == "truck-1"
    for n in range(50):
        assert refused(tokens, issuer.token(OTHER_KEY, f"unknown-{n}")) == "invalid_token"
    assert issuer.fetched == 2


@pytest.mark.parametrize("is_cached", [True, False])
def test_token_signed_with_a_withdrawn_key_is_refused_after_an_hour(issuer: Issuer, is_cached: bool) -> None:
    tokens = issuer.tokens()
    cached = issuer.token(exp=int(issuer.now) + 9000)
    tokens.speaker("Bearer " + cached)
    issuer.keys = [public_jwk(RSA_KEY, "rsa")]
    issuer.now += KEYS_FRESH_SECONDS
    token = cached if is_cached else issuer.token(exp=int(issuer.now) + 9000)
    assert refused(tokens, token) == "invalid_token"
    assert issuer.fetched == 2


def test_known_keys_stay_in_use_while_the_provider_is_down(issuer: Issuer) -> None:
    tokens = issuer.tokens()
    tokens.speaker("Bearer " + issuer.token())
    issuer.is_down = True
    issuer.now += 5 * KEYS_FRESH_SECONDS
    with structlog.testing.capture_logs() as lines:
        assert tokens.speaker("Bearer " + issuer.token(exp=int(issuer.now) + 600)).device == "truck-1"
    assert issuer.fetched == 2
    assert [(line["event"], line["error"]) for line in lines] == [("identity_keys_not_fetched", "down")]


def test_token_with_a_new_key_is_not_called_invalid_while_the_provider_is_down(issuer: Issuer) -> None:
    """The provider may have rotated its keys. A 401 would make the app ask the provider for another token."""
    tokens = issuer.tokens()
    tokens.speaker("Bearer " + issuer.token())
    issuer.now += KEYS_REFRESH_FLOOR_SECONDS
    issuer.is_down = True
    for _ in range(2):
        with pytest.raises(RetryableError, match="could not be fetched"):
            tokens.speaker("Bearer " + issuer.token(OTHER_KEY, "new"))
    assert issuer.fetched == 2
    issuer.is_down = False
    issuer.now += KEYS_REFRESH_FLOOR_SECONDS
    assert refused(tokens, issuer.token(OTHER_KEY, "new")) == "invalid_token"


@pytest.mark.parametrize(
    "answer", [None, b"", b"<html>", b"[]", b'{"keys": 1}'], ids=["down", "empty", "html", "list", "number"]
)
def test_verifying_a_token_raises_retryable_error_if_no_keys_can_be_fetched(
    issuer: Issuer, answer: bytes | None
) -> None:
    issuer.is_down, issuer.answer = answer is None, answer
    tokens = issuer.tokens()
    why = "down" if answer is None else "(truncated|malformed|Expected)"  # the cause, for operators
    with pytest.raises(RetryableError, match=rf"keys could not be fetched: .*{why}"):
        tokens.speaker("Bearer " + issuer.token())
    issuer.is_down, issuer.answer = False, None
    issuer.now += KEYS_REFRESH_FLOOR_SECONDS
    assert tokens.speaker("Bearer " + issuer.token()).device == "truck-1"


def test_every_call_reports_an_invalid_provider_url() -> None:
    keys = Keys(lambda: fetch("https://issuer.example:port/jwks"))
    for _ in range(2):
        with pytest.raises(RetryableError, match="could not be fetched: nonnumeric port: 'port'"):
            keys("ec")


def test_keys_are_fetched_again_after_five_seconds_if_the_first_fetch_failed(
    issuer: Issuer,
) -> None:
    tokens = issuer.tokens()
    issuer.is_down = True
    for _ in range(3):
        with pytest.raises(RetryableError):
            tokens.speaker("Bearer " + issuer.token())
    assert issuer.fetched == 1
    issuer.is_down = False
    issuer.now += RETRY_AFTER_SECONDS
    assert tokens.speaker("Bearer " + issuer.token()).device == "truck-1"
    assert issuer.fetched == 2


def test_unusable_key_of_the_provider_does_not_affect_its_other_keys(issuer: Issuer) -> None:
    issuer.keys[:0] = [
        {"kid": "odd", "kty": "odd"},
        {**public_jwk(OTHER_KEY, "unsigned"), "alg": "none"},
        {**public_jwk(OTHER_KEY, "listed"), "alg": ["ES256"]},
        {"kty": "EC"},
        {"kid": "shared", "kty": "oct", "k": "c2VjcmV0"},
        public_jwk(OTHER_KEY, "encryption", use="enc"),
    ]
    tokens = issuer.tokens()
    assert tokens.speaker("Bearer " + issuer.token()).device == "truck-1"
    assert refused(tokens, issuer.token(OTHER_KEY, "encryption")) == "invalid_token"


# --- requests -----------------------------------------------------------------------------------


def geofence_event(event_id: str, device: str, **user: str) -> dict[str, object]:
    return {
        "_id": event_id,
        "type": "user.entered_geofence",
        "createdAt": "2026-11-16T08:00:00Z",
        "user": {"deviceId": device, **user},
        "geofence": {"tag": "farm", "externalId": "7"},
    }


def bearer(token: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}


def phone_of(issuer: Issuer, identity: str, **settings: str) -> Phone:
    return Phone(World(), {**SETTINGS, "IDENTITY": identity, **settings}, issuer.tokens(JWT_USER_CLAIM="sub"))


def logged(capsys: pytest.CaptureFixture[str], event: str) -> dict[str, object]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return next(line for line in lines if line["event"] == event)


def test_only_the_event_of_a_device_that_the_token_does_not_name_is_rejected(
    issuer: Issuer, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = phone_of(issuer, "required")
    events = [geofence_event("mine", "truck-1"), geofence_event("invented", "truck-2")]
    answer = phone.post(events, bearer(issuer.token()))
    assert (answer.status, answer.body["accepted"], answer.codes) == (202, 1, ["device_mismatch"])
    assert [json.loads(line)["_id"] for line in phone.world.lines("events")] == ["mine"]
    assert [record.partition_key for record in phone.world.stream] == ["truck-1"]
    (kept,) = phone.world.lines("rejected")
    assert json.loads(kept)["event"]["_id"] == "invented"
    line = logged(capsys, "events_ingested")
    assert (line["credential"], line["rejected_by_code"]) == ("token", {"device_mismatch": 1})


def test_request_with_events_of_500_other_devices_publishes_nothing(issuer: Issuer) -> None:
    phone = phone_of(issuer, "required")
    answer = phone.post([geofence_event(f"e-{n}", f"van-{n}") for n in range(500)], bearer(issuer.token()))
    assert answer.status == 400
    assert phone.world.stream == []


def test_device_in_the_envelope_must_match_the_token(issuer: Issuer) -> None:
    event = geofence_event("a", "x")
    del event["user"]
    phone = phone_of(issuer, "required")
    answer = phone.post({"events": [event], "user": {"deviceId": "truck-2"}}, bearer(issuer.token()))
    assert answer.codes == ["device_mismatch"]


def test_events_of_another_driver_on_the_same_device_are_accepted_and_counted(
    issuer: Issuer, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = phone_of(issuer, "required")
    events = [
        geofence_event("a", "truck-1", userId="driver-6"),
        geofence_event("b", "truck-1", userId="driver-7"),
    ]
    assert phone.post(events, bearer(issuer.token())).body["accepted"] == 2
    assert logged(capsys, "events_ingested")["other_user"] == 1


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic a2V5"}], ids=["none", "another scheme"])
def test_request_without_a_token_gets_401_and_is_not_stored(issuer: Issuer, headers: dict[str, str]) -> None:
    phone = phone_of(issuer, "required")
    answer = phone.post(geofence_event("a", "truck-1"), {"Content-Type": "application/json", **headers})
    assert (answer.status, answer.body["code"]) == (401, "missing_token")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert phone.world.objects == {}


def test_stage_with_optional_identity_accepts_an_api_key_or_a_token(
    issuer: Issuer, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = phone_of(issuer, "optional")
    assert phone.post(geofence_event("a", "any-truck")).status == 202
    assert logged(capsys, "events_ingested")["credential"] == "api_key"
    assert phone.post(geofence_event("b", "truck-1"), bearer(issuer.token())).status == 202
    assert logged(capsys, "events_ingested")["credential"] == "token"
    assert phone.post(geofence_event("c", "truck-2"), bearer(issuer.token())).codes == ["device_mismatch"]
    assert phone.post(geofence_event("d", "truck-1"), bearer("a.b.c")).status == 401


def test_signed_server_request_is_not_restricted_to_one_device(
    issuer: Issuer, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = phone_of(issuer, "required", SIGNATURE_SCHEME="milkrun")
    body = json.dumps(geofence_event("a", "truck-9")).encode()
    at = int(phone.world.received_at.timestamp())
    signed = {"X-Milkrun-Timestamp": str(at), "X-Milkrun-Signature": sign(b"first-secret", at, body)}
    assert phone.post(body, {"Content-Type": "application/json", **signed}).status == 202
    assert logged(capsys, "events_ingested")["credential"] == "signature"
    assert phone.post(body, {"Content-Type": "application/json"}).body["code"] == "missing_signature"


def test_operator_who_invokes_the_function_is_not_restricted_to_one_device(
    issuer: Issuer, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = phone_of(issuer, "required")
    event = {"headers": {}, "body": json.dumps(geofence_event("a", "truck-9")), "isBase64Encoded": False}
    assert phone.send(event).status == 202
    assert logged(capsys, "events_ingested")["credential"] == "iam"
    assert phone.send({**event, "requestContext": {}}).body["code"] == "missing_token"


def test_token_is_checked_before_the_body_is_inflated(issuer: Issuer) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {**bearer("not.a.token"), "Content-Encoding": "gzip"}
    assert phone_of(issuer, "required").post(bomb, headers).status == 401


def test_request_gets_503_if_the_provider_is_down_and_no_keys_are_known(issuer: Issuer) -> None:
    issuer.is_down = True
    answer = phone_of(issuer, "required").post(geofence_event("a", "truck-1"), bearer(issuer.token()))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"JWT_ISSUER": ""}, "JWT_ISSUER"),
        ({"JWT_JWKS_URL": "http://issuer.example/jwks"}, "JWT_JWKS_URL"),
        ({"JWT_ALGORITHMS": "HS256"}, "JWT_ALGORITHMS"),
    ],
)
def test_settings_error_names_the_invalid_identity_setting(settings_: dict[str, str], message: str) -> None:
    assert Settings.of(SETTINGS).identity == "required"
    with pytest.raises(SettingsError, match=message):
        Settings.of(SETTINGS | settings_)


def test_importing_the_handler_loads_no_token_library() -> None:
    code = "import sys, handler.main; print({'jwt', 'cryptography'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "set()"


def test_keys_are_fetched_over_http_and_a_500_raises_retryable_error() -> None:
    with strict_service() as provider:
        provider.answers = [(200, json.dumps({"keys": [public_jwk(EC_KEY, "ec")]}).encode()), (500, b"")]
        provider.is_open = True
        assert list(parse_keys(fetch(f"{provider.url}/jwks?v=1"))) == ["ec"]
        # AWS WAF's core rules block requests without this header. (AWS WAF Developer Guide: "Baseline rule groups".)
        assert provider.requests[0][2]["user-agent"] == "milkrun"
        with pytest.raises(RetryableError):
            fetch(f"{provider.url}/jwks")
    assert [(method, path) for method, path, _, _ in provider.requests] == [
        ("GET", "/jwks?v=1"),
        ("GET", "/jwks"),
    ]
