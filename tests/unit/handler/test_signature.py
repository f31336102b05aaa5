"""Who may post where a stage wants requests signed; nothing of the others is stored."""

import gzip
import hashlib
import hmac
import json

import pytest

from handler.http import Refused
from handler.signature import Secrets, parse_secrets, sign, verify
from tests.unit.handler.conftest import Phone

NOW = 1_800_000_000
BODY = b'{"a":1}'
SECRETS = [b"first-secret", b"second-secret"]
TRIP = {"_id": "a", "type": "t", "createdAt": "2026-11-16T08:00:00Z", "deviceId": "d"}


def refusal(scheme: str, headers: dict[str, str]) -> str:
    """The code of the refusal, or "" for none."""
    try:
        verify(scheme, headers, BODY, lambda: SECRETS, NOW)
    except Refused as refused:
        return f"{refused.status} {refused.code}".removeprefix("403 ")
    return ""


def signed(secret: bytes = SECRETS[0], at: int = NOW, body: bytes = BODY) -> dict[str, str]:
    return {"x-milkrun-timestamp": str(at), "x-milkrun-signature": sign(secret, at, body)}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("seconds_off", [-300, 0, 300])
def test_either_secret_will_do_for_five_minutes(secret: bytes, seconds_off: int) -> None:
    assert refusal("milkrun", signed(secret, NOW + seconds_off)) == ""


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_signature"),
        (signed() | {"x-milkrun-signature": ""}, "missing_signature"),
        (signed() | {"x-milkrun-timestamp": "now"}, "missing_signature"),
        (signed() | {"x-milkrun-timestamp": "１800000000"}, "missing_signature"),
        (signed(at=NOW - 301), "signature_expired"),
        (signed(at=NOW + 301), "signature_expired"),
        (signed(b"another"), "bad_signature"),
        (signed(body=b'{"a":2}'), "bad_signature"),
        (signed() | {"x-milkrun-timestamp": str(NOW + 1)}, "bad_signature"),
        (signed() | {"x-milkrun-signature": "é"}, "bad_signature"),
    ],
)
def test_anything_else_is_refused(headers: dict[str, str], code: str) -> None:
    assert refusal("milkrun", headers) == code


def test_radars_own_signature_covers_its_signing_id() -> None:
    right = hmac.new(SECRETS[1], b"signing-id", hashlib.sha1).hexdigest()
    assert refusal("radar", {"x-radar-signing-id": "signing-id", "x-radar-signature": right}) == ""
    assert refusal("radar", {"x-radar-signing-id": "other", "x-radar-signature": right}) == "bad_signature"
    assert refusal("radar", {"x-radar-signing-id": "signing-id"}) == "missing_signature"


def test_without_a_scheme_no_secret_is_asked_for() -> None:
    verify("off", {}, BODY, lambda: pytest.fail("asked"), NOW)


def test_secrets_are_fetched_once_in_five_minutes_and_outlive_an_outage() -> None:
    fetched: list[list[bytes] | Exception] = [[b"old"], RuntimeError("down"), [b"new"]]
    at = [0.0]

    def fetch() -> list[bytes]:
        found = fetched.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    secrets = Secrets(fetch, lambda: at[0])
    seen = []
    for at[0] in (0.0, 299.0, 300.0, 601.0):
        seen.append(secrets())
    assert seen == [[b"old"], [b"old"], [b"old"], [b"new"]]


def test_secrets_that_were_never_fetched_are_an_outage() -> None:
    def fetch() -> list[bytes]:
        raise RuntimeError("down")

    with pytest.raises(RuntimeError):
        Secrets(fetch)()


def test_one_or_two_secrets_stand_in_a_parameter() -> None:
    assert parse_secrets(" one\ntwo ") == [b"one", b"two"]
    with pytest.raises(ValueError, match="no signing secret"):
        parse_secrets(" ")


def test_a_signed_request_is_taken_whether_or_not_it_is_compressed(phone: Phone) -> None:
    phone.settings = {"SIGNATURE_SCHEME": "milkrun"}
    body = json.dumps(TRIP).encode()
    headers = signed(at=int(phone.world.received_at.timestamp()), body=body)
    assert phone.post(body, headers).status == 202
    assert phone.post(gzip.compress(body), headers | {"content-encoding": "gzip"}).status == 202


@pytest.mark.parametrize("body", [json.dumps(TRIP).encode(), b"not json", b"\x1f\x8b broken"])
def test_nothing_of_an_unsigned_request_is_stored(phone: Phone, body: bytes) -> None:
    phone.settings = {"SIGNATURE_SCHEME": "milkrun"}
    answer = phone.post(body, {"content-encoding": "gzip"} if body[:1] == b"\x1f" else {"x-y": ""})
    assert (answer.status, answer.body["code"]) == (403, "missing_signature")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert phone.world.calls == []
