"""The handler's settings in a stage."""

from typing import Annotated, Literal

import msgspec

from contract.settings import Name, StageSettings
from handler.limits import DEFAULT_CLOCK_AHEAD_SECONDS


class Settings(StageSettings, frozen=True, kw_only=True, rename="upper"):
    stream_name: Name
    redrive_queue_url: Name
    signature_scheme: Literal["off", "milkrun", "radar"] = "off"
    # Which credentials the stage accepts: the API key alone, either it or a token, or tokens only.
    identity: Literal["off", "optional", "required"] = "off"
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_jwks_url: str = ""
    jwt_algorithms: str = "RS256,ES256"
    jwt_device_claim: str = "device_id"
    # How far `createdAt` may be ahead of our clock: at most a day (contract.instants.MAX_CLOCK_AHEAD).
    max_clock_ahead_seconds: Annotated[int, msgspec.Meta(ge=0, le=86400)] = DEFAULT_CLOCK_AHEAD_SECONDS
    jwt_user_claim: str = ""  # if given, events of another user are accepted and counted
    signature_secrets: str = ""  # ssm:<parameter> or secretsmanager:<secret>
