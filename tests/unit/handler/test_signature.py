"""Test that a stage that requires signatures accepts only signed requests, and stores nothing from unsigned ones."""

import gzip
import hashlib
import hmac
import inspect
import json
import time

import pytest
import structlog

from aws.errors import RetryableError
from handler.http import Refused
from handler.signature import Secrets, sign, verify
from tests.unit.handler.conftest import Phone

NOW = 1_800_000_000
BODY = b'{"a":1}'
SECRETS = [b"first-secret", b"second-secret"]
TRIP = {"_id": "a", "type": "t", "createdAt": "2026-11-16T08:00:00Z", "deviceId": "d"}


def refusal(scheme: str, headers: dict[str, str]) -> str:
    """Return the error code if `verify` refuses these headers, otherwise "".

    The status precedes the code unless it is 403.
    """
    try:
        verify(scheme, headers, lambda: BODY, lambda: SECRETS, NOW)
    except Refused as refused:
        return f"{refused.status} {refused.code}".removeprefix("403 ")
    return ""


def signed(secret: bytes = SECRETS[0], at: int = NOW, body: bytes = BODY) -> dict[str, str]:
    return {"x-milkrun-timestamp": str(at), "x-milkrun-signature": sign(secret, at, body)}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("seconds_off", [-300, 0, 300])
def test_signature_with_either_secret_is_accepted_within_five_minutes_of_its_timestamp(
    secret: bytes, seconds_off: int
) -> None:
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
def test_missing_wrong_or_expired_signature_is_refused(headers: dict[str, str], code: str) -> None:
    assert refusal("milkrun", headers) == code


def radar(
    secrets: list[bytes], days_later: int = 0, signing_id: str = "signing-id", signature: str | None = None
) -> None:
    right = hmac.new(b"token", b"signing-id", hashlib.sha1).hexdigest()
    headers = {
        "x-radar-signing-id": signing_id,
        "x-radar-signature": right if signature is None else signature,
    }
    verify("radar", headers, lambda: pytest.fail("body was read"), lambda: secrets, NOW + days_later * 86400)


RADAR_SECRETS = [b"other@2027-02-01", b"token@2027-02-01"]  # NOW is 2027-01-15


def test_radar_signature_is_verified_without_reading_the_body() -> None:
    radar(RADAR_SECRETS)
    with pytest.raises(Refused, match="does not match"):
        radar(RADAR_SECRETS, signing_id="other")
    with pytest.raises(Refused, match="are required"):
        radar(RADAR_SECRETS, signature="")


def test_radar_secret_stored_both_with_and_without_its_last_day_is_accepted() -> None:
    """During an upgrade (docs/upgrade.md) each secret is stored in both forms, because the earlier version accepts only
    the secret without its last day.
    """
    radar([b"token", b"token@2027-02-01"])


def test_radar_headers_cannot_be_replayed_after_the_last_day_of_the_secret() -> None:
    radar(RADAR_SECRETS, days_later=17)
    for days_later in (18, 400):
        with pytest.raises(RetryableError, match="last day"):
            radar(RADAR_SECRETS, days_later)


@pytest.mark.parametrize("secret", [b"token", b"token@", b"token@2027-12-31", b"token@9999-99-99"])
def test_radar_secret_whose_last_day_is_missing_or_over_100_days_away_is_not_used(secret: bytes) -> None:
    with pytest.raises(RetryableError, match="last day"):
        radar([secret])


def test_body_is_not_read_if_the_signature_is_missing_or_expired() -> None:
    for headers in ({}, signed(at=NOW - 301)):
        with pytest.raises(Refused):
            verify("milkrun", headers, lambda: pytest.fail("body was read"), lambda: SECRETS, NOW)


def test_no_secret_is_fetched_if_the_stage_requires_no_signature() -> None:
    verify("off", {}, lambda: BODY, lambda: pytest.fail("the secrets were fetched"), NOW)


def test_secrets_are_cached_for_five_minutes_and_kept_during_an_outage() -> None:
    fetched: list[str | Exception] = ["old", RuntimeError("down"), "new"]
    at = [0.0]

    def fetch() -> str:
        found = fetched.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    secrets = Secrets(fetch, lambda: at[0])
    seen = []
    with structlog.testing.capture_logs() as lines:
        for at[0] in (0.0, 299.0, 300.0, 601.0):
            seen.append(secrets())
    assert seen == [[b"old"], [b"old"], [b"old"], [b"new"]]
    assert [(line["event"], line["error"]) for line in lines] == [
        ("signing_secrets_not_fetched", "RuntimeError")
    ]


def test_age_of_cached_secrets_is_measured_with_the_wall_clock() -> None:
    """The monotonic clock stops while the environment is frozen, so with that clock an environment with few requests
    would use a replaced secret for hours.
    """
    assert inspect.signature(Secrets).parameters["clock"].default is time.time


def test_error_is_raised_if_the_first_fetch_of_the_secrets_fails() -> None:
    def fetch() -> str:
        raise RuntimeError("down")

    with pytest.raises(RuntimeError):
        Secrets(fetch)()


def test_secrets_parameter_may_contain_two_secrets_but_must_not_be_empty() -> None:
    assert Secrets(lambda: " one\ntwo ")() == [b"one", b"two"]
    with pytest.raises(ValueError, match="no signing secret"):
        Secrets(lambda: " ")()


def test_signed_request_may_have_a_compressed_or_an_uncompressed_body(phone: Phone) -> None:
    phone.settings = {"SIGNATURE_SCHEME": "milkrun"}
    body = json.dumps(TRIP).encode()
    headers = signed(at=int(phone.world.received_at.timestamp()), body=body)
    assert phone.post(body, headers).status == 202
    assert phone.post(gzip.compress(body), headers | {"content-encoding": "gzip"}).status == 202


@pytest.mark.parametrize("body", [json.dumps(TRIP).encode(), b"not json", b"\x1f\x8b broken"])
def test_unsigned_request_is_not_stored(phone: Phone, body: bytes) -> None:
    phone.settings = {"SIGNATURE_SCHEME": "milkrun"}
    answer = phone.post(body, {"content-encoding": "gzip"} if body[:1] == b"\x1f" else {"x-y": ""})
    assert (answer.status, answer.body["code"]) == (403, "missing_signature")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert phone.world.calls == []
