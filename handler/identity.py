"""Who is sending: a bearer token names the one device that a request may speak for.

Tokens are JWTs of the OpenID Connect provider that the app signs in with. The device is a claim of the token; the
stage chooses which. (RFC 6750 "Bearer Token Usage", RFC 7519 "JSON Web Token", RFC 7517 "JSON Web Key".)
"""

import hashlib
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from aws.errors import RetryableError
from aws.http import fetch
from handler.http import Refused

type Kind = Literal["api_key", "iam", "signature", "token"]

MAX_TOKEN_CHARS = 8192
MAX_CACHED_TOKENS = 1000
LEEWAY_SECONDS = 60
KEYS_FRESH_SECONDS = 3600.0
# An unknown key id causes a refresh, so anybody can cause one: not more often than this.
KEYS_REFRESH_FLOOR_SECONDS = 60.0
# Symmetric algorithms and "none" would let whoever knows the public keys make tokens.
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)


@dataclass(frozen=True, slots=True)
class Speaker:
    """The credential of a request. `device` is the only device it may speak for; None: every device.

    A different user is no reason to reject: a phone may send what one driver left with the token of the next.
    """

    kind: Kind
    device: str | None = None
    user: str | None = None

    def may_speak_for(self, device: str | None) -> bool:
        """Events without a device count under their user and are not bound."""
        return self.device is None or device is None or device == self.device


ANYBODY = Speaker("api_key")


@dataclass(frozen=True, slots=True)
class Provider:
    """The identity provider that a stage trusts. Raises ValueError for an algorithm that a public key cannot verify."""

    issuer: str
    audience: str
    jwks_url: str
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    device_claim: str = "device_id"
    user_claim: str = ""

    def __post_init__(self) -> None:
        if not (self.issuer and self.audience and self.jwks_url):
            raise ValueError("IDENTITY needs JWT_ISSUER, JWT_AUDIENCE and JWT_JWKS_URL")
        if not self.jwks_url.startswith(("https://", "http://127.0.0.1:")):
            raise ValueError("JWT_JWKS_URL is not an https URL")
        if wrong := set(self.algorithms) - ALGORITHMS:
            raise ValueError(f"JWT_ALGORITHMS: {', '.join(sorted(wrong))} is not allowed")
        if not self.algorithms:
            raise ValueError("JWT_ALGORITHMS is empty")


def fetch_keys(url: str) -> bytes:
    """Return the body of a JWK set. Raises RetryableError."""
    response = fetch(url)
    if response.status != 200:
        raise RetryableError(f"the identity provider answered {response.status}")
    return response.body


class Keys:
    """The provider's public keys by key id.

    They are fetched when a token names a key that is not known, and every hour. While the provider cannot be reached
    the keys that were fetched last stay in use.
    """

    def __init__(self, fetch: Callable[[], bytes], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: Mapping[str, Any] = {}
        self._tried_at: float | None = None
        self._fetched_at: float | None = None

    def __call__(self, key_id: str) -> Any:
        """Return the key, or None if the provider has none of that id. Raises RetryableError without any keys."""
        now = self._clock()
        may_try = self._tried_at is None or now - self._tried_at >= KEYS_REFRESH_FLOOR_SECONDS
        is_stale = self._fetched_at is None or now - self._fetched_at >= KEYS_FRESH_SECONDS
        if may_try and (is_stale or key_id not in self._keys):
            self._tried_at = now
            try:
                self._keys = parse_keys(self._fetch())
                self._fetched_at = now
            except (RetryableError, ValueError):
                pass
        if self._fetched_at is None:
            raise RetryableError("the keys of the identity provider could not be fetched")
        return self._keys.get(key_id)


def parse_keys(body: bytes) -> dict[str, Any]:
    """Return a JWK set's usable keys by key id. Raises ValueError if it is not a JWK set."""
    import jwt  # 40 ms that only stages with identity pay

    found = msgspec.json.decode(body, type=_KeySet)
    keys: dict[str, Any] = {}
    for raw in found.keys:
        key_id = raw.get("kid")
        if not isinstance(key_id, str) or raw.get("use", "sig") != "sig" or raw.get("kty") == "oct":
            continue
        try:
            keys[key_id] = jwt.PyJWK(raw)
        except (jwt.PyJWTError, NotImplementedError, TypeError, ValueError):
            continue  # a kind of key that we do not know is no reason to lose the others
    return keys


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class Tokens:
    """Verify tokens; each is remembered until it expires, the least recently used one being forgotten first."""

    def __init__(self, provider: Provider, keys: Keys, clock: Callable[[], float]) -> None:
        """`clock` returns seconds since 1970."""
        self._provider = provider
        self._keys = keys
        self._clock = clock
        self._verified: OrderedDict[bytes, tuple[float, Speaker]] = OrderedDict()

    def speaker(self, authorization: str) -> Speaker:
        """Return the sender that the header `Authorization` names. Raises Refused (401) or RetryableError."""
        scheme, _, token = authorization.strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Refused(401, "missing_token", "Send `Authorization: Bearer <token>`.")
        if not token.isascii():  # a lone surrogate cannot even be hashed
            raise Refused(
                401, "invalid_token", "The token is not valid: it has characters that are not ASCII."
            )
        if len(token) > MAX_TOKEN_CHARS:
            raise Refused(401, "invalid_token", f"The token has more than {MAX_TOKEN_CHARS} characters.")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None:
            expires_at, speaker = known
            if self._clock() < expires_at + LEEWAY_SECONDS:
                self._verified.move_to_end(digest)
                return speaker
            del self._verified[digest]
        expires_at, speaker = self._verify(token)
        self._verified[digest] = expires_at, speaker
        if len(self._verified) > MAX_CACHED_TOKENS:
            self._verified.popitem(last=False)
        return speaker

    def _verify(self, token: str) -> tuple[float, Speaker]:
        provider = self._provider
        try:
            claims = self._signed_claims(token)
        except (ValueError, RecursionError) as error:
            raise Refused(401, "invalid_token", f"The token is not valid: {type(error).__name__}.") from None
        audience, expires_at, not_before = claims.get("aud"), claims.get("exp"), claims.get("nbf", 0)
        if claims.get("iss") != provider.issuer:
            raise Refused(401, "invalid_token", "The token is from another issuer.")
        if provider.audience not in (audience if isinstance(audience, list) else [audience]):
            raise Refused(401, "invalid_token", "The token is for another audience.")
        if not isinstance(expires_at, int | float) or not isinstance(not_before, int | float):
            raise Refused(401, "invalid_token", "The token's times are not numbers.")
        now = self._clock()
        if now >= expires_at + LEEWAY_SECONDS:
            raise Refused(401, "token_expired", "The token has expired: get a new one, then send again.")
        if now < not_before - LEEWAY_SECONDS:
            raise Refused(401, "invalid_token", "The token is not valid yet.")
        device, user = claims.get(provider.device_claim), claims.get(provider.user_claim)
        if not isinstance(device, str) or not device:
            detail = f"The token has no claim `{provider.device_claim}` that names a device."
            raise Refused(401, "token_without_device", detail)
        return expires_at, Speaker("token", device, user if isinstance(user, str) else None)

    def _signed_claims(self, token: str) -> dict[str, Any]:
        """Return the claims that a key of the provider signed. Raises ValueError or RecursionError if none did.

        (RFC 7515 "JSON Web Signature", section 5.2.) PyJWT has keys and algorithms; its parser checks each character
        in Python and costs as much as the signature.
        """
        signed, _, signature = token.rpartition(".")
        encoded_header, _, payload = signed.partition(".")
        header = msgspec.json.decode(_bytes_of(encoded_header), type=_Header)
        key = self._keys(header.kid)
        if key is None:
            raise Refused(401, "invalid_token", "The identity provider has no key that the token names.")
        # A token cannot choose the algorithm of a key, and "crit" names extensions without which it is not valid.
        if header.alg not in self._provider.algorithms or header.alg != key.algorithm_name or header.crit:
            raise ValueError("alg or crit")
        if not key.Algorithm.verify(signed.encode(), key.key, _bytes_of(signature)):
            raise ValueError("signature")
        return msgspec.json.decode(_bytes_of(payload), type=dict[str, Any])


class _Header(msgspec.Struct):
    alg: str
    kid: str
    crit: msgspec.Raw = msgspec.Raw()


def _bytes_of(part: str) -> bytes:
    """Decode base64url without padding. Raises ValueError."""
    return b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True)
