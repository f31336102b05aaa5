"""Verify the signatures of requests, on stages that require them.

Scheme `milkrun`: X-Milkrun-Timestamp is the time in Unix seconds, and X-Milkrun-Signature is the hexadecimal
HMAC-SHA256 of `<timestamp>.<body>`. The uncompressed body is signed, because gateways may decompress it.

Scheme `radar`, for Radar's own webhooks: X-Radar-Signature is the hexadecimal HMAC-SHA1 of X-Radar-Signing-Id. It
covers neither the body nor a time, so anyone who captures the two headers can send any event with them until the secret
expires. Therefore a secret for Radar must contain its last day, `<secret>@2027-01-31`, at most MAX_RADAR_DAYS ahead.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import structlog

from aws.errors import RetryableError
from contract.logs import message_of
from handler.http import Refused

type Scheme = Literal["off", "milkrun", "radar"]

WINDOW_SECONDS = 300
CACHE_SECONDS = 300
MAX_RADAR_DAYS = 100
_DATED = re.compile(rb"(.+)@([0-9]{4}-[0-9]{2}-[0-9]{2})", re.DOTALL)

log = structlog.get_logger()


class Secrets:
    """The stage's secrets (two during a rotation), cached for CACHE_SECONDS, or longer if fetching them again fails."""

    def __init__(self, fetch: Callable[[], str], clock: Callable[[], float] = time.time) -> None:
        """`fetch` returns one or two secrets, separated by whitespace."""
        self._fetch, self._clock = fetch, clock
        self._secrets: Sequence[bytes] = ()
        self._stale_at = 0.0

    def __call__(self) -> Sequence[bytes]:
        if not self._secrets or self._clock() >= self._stale_at:
            try:
                fetched = self._fetch().encode().split()
                if not fetched:
                    raise ValueError("no signing secret")
                self._secrets = fetched
            except Exception as error:
                # Whatever the error, using the previous secrets is better than rejecting every phone.
                if not self._secrets:
                    raise
                log.warning("signing_secrets_not_fetched", error=message_of(error))
            self._stale_at = self._clock() + CACHE_SECONDS
        return self._secrets


def verify(
    scheme: Scheme,
    headers: Mapping[str, str],
    read_body: Callable[[], bytes],
    secrets: Callable[[], Sequence[bytes]],
    now: float,
) -> None:
    """Check a signature. Raises Refused (403), RetryableError if no Radar secret is valid, or errors of `secrets`."""
    if scheme == "milkrun":
        given, timestamp = headers.get("x-milkrun-signature", ""), headers.get("x-milkrun-timestamp", "")
        if not (given and re.fullmatch("[0-9]{1,15}", timestamp)):
            detail = "Sign the request with X-Milkrun-Timestamp and X-Milkrun-Signature."
            raise Refused(403, "missing_signature", detail)
        if abs(now - int(timestamp)) > WINDOW_SECONDS:
            detail = f"X-Milkrun-Timestamp is more than {WINDOW_SECONDS} seconds off: sign the request again."
            raise Refused(403, "signature_expired", detail)
        body = read_body()
        _require_one_of(given, [sign(secret, int(timestamp), body) for secret in secrets()])
    elif scheme == "radar":
        given, signed = headers.get("x-radar-signature", ""), headers.get("x-radar-signing-id", "").encode()
        valid = _dated(secrets(), now)
        if not given or not signed:
            raise Refused(403, "missing_signature", "X-Radar-Signature and X-Radar-Signing-Id are required.")
        _require_one_of(given, [hmac.new(secret, signed, hashlib.sha1).hexdigest() for secret in valid])


def sign(secret: bytes, timestamp: int, body: bytes) -> str:
    """Return the value of X-Milkrun-Signature for a body that is signed at `timestamp`."""
    return hmac.new(secret, b"%d.%b" % (timestamp, body), hashlib.sha256).hexdigest()


def _dated(secrets: Sequence[bytes], now: float) -> list[bytes]:
    """Return the secrets whose last day is today or within MAX_RADAR_DAYS. Raises RetryableError if there are none."""
    today = datetime.fromtimestamp(now, UTC).date()
    days = {str(today).encode(), str(today + timedelta(days=MAX_RADAR_DAYS)).encode()}
    found = [_DATED.fullmatch(secret) for secret in secrets]
    valid = [dated[1] for dated in found if dated and min(days) <= dated[2] <= max(days)]
    if not valid:
        raise RetryableError("no signing secret for Radar has a last day within the next 100 days")
    return valid


def _require_one_of(given: str, signatures: Sequence[str]) -> None:
    # All are compared, each in constant time, so that the response time reveals nothing about a secret.
    matches = [hmac.compare_digest(given.lower().encode(), one.encode()) for one in signatures]
    if not any(matches):
        raise Refused(403, "bad_signature", "The signature does not match.")
