"""The settings of the ingest and redrive functions."""

from typing import Annotated, Literal

import msgspec

from contract.event_limits import DEFAULT_CLOCK_AHEAD_SECONDS
from contract.settings import Name, StageSettings

# With a symmetric algorithm or "none", anybody who has the public keys could create tokens.
_ALGORITHM = "((RS|PS|ES)(256|384|512)|EdDSA)"
_ALGORITHMS = f"^{_ALGORITHM}([ ,]+{_ALGORITHM})*$"


class Settings(StageSettings, frozen=True, kw_only=True, rename="upper"):
    default_if_empty = ("MAX_CLOCK_AHEAD_SECONDS",)

    stream_name: Name
    redrive_queue_url: Name
    signature_scheme: Literal["off", "milkrun", "radar"] = "off"
    # Tokens are ignored, verified if sent, or required (unless requests are signed). The API key is always required.
    identity: Literal["off", "optional", "required"] = "off"
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_jwks_url: Annotated[str, msgspec.Meta(pattern=r"^(https://|http://127\.0\.0\.1:|$)")] = ""
    jwt_algorithms: Annotated[str, msgspec.Meta(pattern=_ALGORITHMS)] = "RS256,ES256"
    jwt_device_claim: str = "device_id"
    # How far `createdAt` may be ahead of our clock; the maximum is a day (contract.event_limits.MAX_CLOCK_AHEAD).
    max_clock_ahead_seconds: Annotated[int, msgspec.Meta(ge=0, le=86400)] = DEFAULT_CLOCK_AHEAD_SECONDS
    jwt_user_claim: str = ""  # if set, accepted events whose user differs from this claim are counted
    signature_secrets: str = ""  # ssm:<parameter>

    def __post_init__(self) -> None:
        if self.identity != "off" and not (self.jwt_issuer and self.jwt_audience and self.jwt_jwks_url):
            raise ValueError(f"IDENTITY={self.identity} requires JWT_ISSUER, JWT_AUDIENCE and JWT_JWKS_URL")

    @property
    def algorithms(self) -> list[str]:
        return self.jwt_algorithms.replace(",", " ").split()
