"""Verify bearer tokens. A token names the only device whose events the request may contain.

Tokens are JWTs from the OpenID Connect provider that the app signs in with. The stage configures which claim names the
device. (RFC 6750 "Bearer Token Usage", RFC 7519 "JSON Web Token", RFC 7517 "JSON Web Key".)
"""

import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog

from aws.errors import RetryableError
from contract.logs import message_of
from handler.http import RETRY_AFTER_SECONDS, Refused
from handler.settings import Settings

if TYPE_CHECKING:
    from jwt import PyJWK

type Kind = Literal["api_key", "iam", "signature", "token"]

MAX_TOKEN_CHARS = 8192
MAX_CACHED_TOKENS = 1000
LEEWAY_SECONDS = 60
KEYS_FRESH_SECONDS = 3600.0
# The minimum time between two fetches, needed because any client can cause a fetch by naming an unknown key id. While
# there are no keys, it is RETRY_AFTER_SECONDS, because phones get 503 until a fetch succeeds.
KEYS_REFRESH_FLOOR_SECONDS = 60.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Speaker:
    """The credential of a request. `device` is the only device whose events the request may contain; None allows all.

    Events of a different user are not rejected, because a phone may send one driver's events with the next driver's
    token.
    """

    kind: Kind
    device: str | None = None
    user: str | None = None

    def may_speak_for(self, device: str | None) -> bool:
        """Return whether the request may contain events of a device. Events without a device are always allowed."""
        return self.device is None or device is None or device == self.device


ANYBODY = Speaker("api_key")


class Keys:
    """The provider's public keys by key id, fetched again after an hour or if a token names an unknown key.

    While the provider cannot be reached, the last fetched keys stay in use.
    """

    def __init__(self, fetch: Callable[[], bytes], clock: Callable[[], float] = time.time) -> None:
        """`fetch` returns a JWK set or raises RetryableError."""
        self._fetch, self._clock = fetch, clock
        self._keys: Mapping[str, PyJWK] = {}
        self._tried_at = self._fetched_at = float("-inf")

    def __call__(self, key_id: str) -> "PyJWK | None":
        """Return a key, or None if the provider has none of this id. Raises RetryableError if the last fetch failed."""
        if key_id not in self._keys:
            self._fetch_again()
        if key_id not in self._keys and self._fetched_at < self._tried_at:
            raise RetryableError(f"the identity provider's keys could not be fetched: {self._failure}")
        return self._keys.get(key_id)

    def refresh(self) -> float:
        """Fetch the keys if they are older than an hour. Returns the time of the last successful fetch."""
        if self._clock() - self._fetched_at >= KEYS_FRESH_SECONDS:
            self._fetch_again()
        return self._fetched_at

    def _fetch_again(self) -> None:
        now = self._clock()
        if now - self._tried_at < (KEYS_REFRESH_FLOOR_SECONDS if self._keys else RETRY_AFTER_SECONDS):
            return
        self._tried_at = now
        try:
            self._keys = parse_keys(self._fetch())
            self._fetched_at = now
        except Exception as error:  # any error, because previous keys are better than rejecting every phone
            self._failure = error
            log.warning("identity_keys_not_fetched", error=message_of(error))


def parse_keys(body: bytes) -> dict[str, "PyJWK"]:
    """Return the usable keys of a JWK set by key id. Raises ValueError if `body` is not a JWK set."""
    import jwt  # takes 40 ms, so only stages with tokens import it

    keys: dict[str, PyJWK] = {}
    for raw in msgspec.json.decode(body, type=_KeySet).keys:
        key_id = raw.get("kid")
        if not isinstance(key_id, str) or raw.get("use", "sig") != "sig" or raw.get("kty") == "oct":
            continue
        try:
            keys[key_id] = jwt.PyJWK(raw)
        except (jwt.PyJWTError, NotImplementedError, TypeError, ValueError):
            continue  # an unsupported key does not affect the others
    return keys


class _KeySet(msgspec.Struct):
    keys: list[dict[str, object]]


class Tokens:
    """Verifies tokens. A verified token is cached until the keys are fetched again; its expiry is always checked."""

    def __init__(self, settings: Settings, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns seconds since the Unix epoch."""
        self._settings, self._keys, self._clock = settings, keys, clock
        self._verified = lru_cache(MAX_CACHED_TOKENS)(self._verify)

    def speaker(self, authorization: str) -> Speaker:
        """Verify the token in `Authorization`; return its device and user. Raises Refused (401) or RetryableError."""
        scheme, _, token = authorization.strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Refused(401, "missing_token", "Send `Authorization: Bearer <token>`.")
        if len(token) > MAX_TOKEN_CHARS:
            raise _invalid(f"The token has more than {MAX_TOKEN_CHARS} characters.")
        expires_at, speaker = self._verified(token, self._keys.refresh())
        if self._clock() >= expires_at + LEEWAY_SECONDS:
            raise Refused(401, "token_expired", "The token has expired: send the batch with a new token.")
        return speaker

    def _verify(self, token: str, _keys_fetched_at: float) -> tuple[float, Speaker]:
        settings = self._settings
        try:
            claims = self._signed_claims(token)
        except (ValueError, RecursionError) as error:
            raise _invalid(f"The token is not valid: {type(error).__name__}.") from None
        audience, expires_at, not_before = claims.get("aud"), claims.get("exp"), claims.get("nbf", 0)
        if claims.get("iss") != settings.jwt_issuer:
            raise _invalid("This stage does not accept tokens from this issuer.")
        if settings.jwt_audience not in (audience if isinstance(audience, list) else [audience]):
            raise _invalid("This stage does not accept tokens for this audience.")
        if not isinstance(expires_at, int | float) or not isinstance(not_before, int | float):
            raise _invalid("The token's `exp` or `nbf` is not a number, or `exp` is missing.")
        if self._clock() < not_before - LEEWAY_SECONDS:
            raise _invalid("The token is not valid yet.")
        device, user = claims.get(settings.jwt_device_claim), claims.get(settings.jwt_user_claim)
        if not isinstance(device, str) or not device:
            detail = f"The token has no claim `{settings.jwt_device_claim}` that names a device."
            raise Refused(401, "token_without_device", detail)
        return expires_at, Speaker("token", device, user if isinstance(user, str) else None)

    def _signed_claims(self, token: str) -> dict[str, object]:
        """Verify a token's signature with the provider's key, and return its claims.

        Raises ValueError, RecursionError, Refused or RetryableError. (RFC 7515 "JSON Web Signature", section 5.2.)
        PyJWT provides only the keys and algorithms. Its token parser is not used, because it checks each character in
        Python and costs as much CPU as the signature check.
        """
        signed, _, signature = token.rpartition(".")
        encoded_header, _, payload = signed.partition(".")
        header = msgspec.json.decode(_bytes_of(encoded_header), type=_Header)
        key = self._keys(header.kid)
        if key is None:
            raise _invalid("The token names a key that is not among the identity provider's usable keys.")
        # A token cannot choose the algorithm of a key. "crit" names extensions that a verifier must support.
        if header.alg != key.algorithm_name or header.alg not in self._settings.algorithms or header.crit:
            raise ValueError("alg or crit")
        if not key.Algorithm.verify(signed.encode(), key.key, _bytes_of(signature)):
            raise ValueError("signature")
        return msgspec.json.decode(_bytes_of(payload), type=dict[str, object])


class _Header(msgspec.Struct):
    alg: str
    kid: str
    crit: msgspec.Raw = msgspec.Raw()


def _invalid(detail: str) -> Refused:
    return Refused(401, "invalid_token", detail)


def _bytes_of(part: str) -> bytes:
    """Decode base64url without padding. Raises ValueError."""
    return b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True)
