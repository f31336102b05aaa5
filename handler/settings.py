"""What a stage tells its functions, read once from the environment."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from contract.events import GEOFENCE_KINDS, Kind

Name = Annotated[str, msgspec.Meta(min_length=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="upper"):
    """Not a pydantic model, whose import would be 40 % of a cold start."""

    archive_bucket: Annotated[str, msgspec.Meta(min_length=3)]
    stream_name: Name
    redrive_queue_url: Name
    stage: str = "local"
    log_level: str = "INFO"
    geofence_kinds: Mapping[str, Kind]  # given as JSON, {"user.entered_geofence": "enter", …}
    signature_scheme: Literal["off", "milkrun", "radar"] = "off"
    # Which credentials the stage accepts: the API key alone, either it or a token, or tokens only.
    identity: Literal["off", "optional", "required"] = "off"
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_jwks_url: str = ""
    jwt_algorithms: str = "RS256,ES256"
    jwt_device_claim: str = "device_id"
    # How far `createdAt` may be ahead of our clock: at most a day (contract.instants.MAX_CLOCK_AHEAD).
    max_clock_ahead_seconds: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 3600
    jwt_user_claim: str = ""  # if given, events of another user are accepted and counted
    signature_secrets: str = ""  # ssm:<parameter> or secretsmanager:<secret>

    @staticmethod
    def of(environment: Mapping[str, str]) -> "Settings":
        """A missing or wrong name fails the first request, and the message names it."""
        try:
            kinds = msgspec.json.decode(environment.get("GEOFENCE_KINDS") or "null") or GEOFENCE_KINDS
        except msgspec.MsgspecError as error:
            raise ValueError(f"GEOFENCE_KINDS: {error}") from error
        return msgspec.convert({**environment, "GEOFENCE_KINDS": kinds}, Settings, strict=False)
