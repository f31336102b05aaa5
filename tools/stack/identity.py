"""The local stack's identity provider, for `make demo AUTH=jwt`: a key pair for each stack, and a static JSON
Web Key Set.

A JSON Web Key Set is a static document, so S3 can serve it and no further process is needed (OpenID Connect
Discovery 1.0: "jwks_uri").
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ops.stage_outputs import TokenIssuer
from tools.stack import private_files
from tools.stack.errors import StackError
from tools.stack.settings import Settings

Auth = Literal["key", "jwt"]

BUCKET = "milkrun-local-identity"
JWKS = "jwks.json"
TOKEN_SECONDS = 3600
RENEWED_SECONDS_BEFORE = 600
NO_DEVICE = "milkrun-send"  # for requests that name no device


def issuer(settings: Settings) -> TokenIssuer:
    return TokenIssuer(
        issuer=f"{settings.endpoint_url}/{BUCKET}",
        audience="milkrun-local",
        private_key_file=settings.folder / "issuer.pem",
    )


def current(settings: Settings) -> Auth:
    """Return the kind of credential that the stack requires. The key pair exists only while the stack
    requires tokens.
    """
    return "jwt" if issuer(settings).private_key_file.exists() else "key"


def parameters(settings: Settings) -> dict[str, str]:
    """Return the parameters of serverless/stage_settings.yml that make the stage require tokens from this identity
    provider.
    """
    own = issuer(settings)
    return {
        "identity": "required",
        "jwtIssuer": own.issuer,
        "jwtAudience": own.audience,
        "jwtJwksUrl": f"{own.issuer}/{JWKS}",
    }


def new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def is_key(text: str) -> bool:
    try:
        return isinstance(load_pem_private_key(text.encode(), None), ec.EllipticCurvePrivateKey)
    except ValueError:
        return False


def publish_keys(settings: Settings, s3: Any) -> None:
    """Create the key pair if it does not exist, and store the public key in S3 as a JSON Web Key Set."""
    file = issuer(settings).private_key_file
    if not file.exists():
        private_files.write(file, new_key())
    s3.create_bucket(Bucket=BUCKET)
    key_set = {"keys": [public_jwk(_read_key(issuer(settings)))]}
    body = json.dumps(key_set, allow_nan=False).encode()
    s3.put_object(Bucket=BUCKET, Key=JWKS, Body=body, ContentType="application/jwk-set+json")


def public_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    algorithm = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256)
    found: dict[str, str] = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": _key_id(key), "use": "sig", "alg": "ES256"}


def _key_id(key: ec.EllipticCurvePrivateKey) -> str:
    return f"{key.public_key().public_numbers().x:064x}"[:16]


def _read_key(of: TokenIssuer) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(of.private_key_file.read_bytes(), None)
    except ValueError:
        raise StackError(
            f"{of.private_key_file} is incomplete. Run `milkrun up`, which replaces it."
        ) from None
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@dataclass(slots=True)
class Tokens:
    """The signed tokens of the devices. Each device has one token, which is renewed before it expires."""

    issuer: TokenIssuer
    clock: Callable[[], float] = time.time
    _signed: dict[str, tuple[float, str]] = field(default_factory=dict)
    _key: ec.EllipticCurvePrivateKey | None = None

    def __call__(self, device: str, renew: bool = False) -> str:
        expires_at, token = self._signed.get(device, (0.0, ""))
        if not renew and expires_at - RENEWED_SECONDS_BEFORE > self.clock():
            return token
        token = self.sign({"device_id": device, "exp": int(self.clock()) + TOKEN_SECONDS})
        self._signed[device] = (self.clock() + TOKEN_SECONDS, token)
        return token

    def sign(self, claims: dict[str, object]) -> str:
        """Return a signed token with these claims. Issuer and audience default to those of the stack."""
        self._key = self._key or _read_key(self.issuer)
        claims = {"iss": self.issuer.issuer, "aud": self.issuer.audience, **claims}
        return jwt.encode(claims, self._key, "ES256", {"kid": _key_id(self._key)})
