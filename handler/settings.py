"""What a stage tells its functions, read once from the environment."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import from_json

from contract.events import GEOFENCE_KINDS, Kind


class Settings(BaseModel):
    """A missing or wrong name fails the first request, and the message names it."""

    model_config = ConfigDict(frozen=True)

    archive_bucket: Annotated[str, Field(alias="ARCHIVE_BUCKET", min_length=3)]
    stream_name: Annotated[str, Field(alias="STREAM_NAME", min_length=1)]
    redrive_queue_url: Annotated[str, Field(alias="REDRIVE_QUEUE_URL", min_length=1)]
    stage: Annotated[str, Field(alias="STAGE")] = "local"
    log_level: Annotated[str, Field(alias="LOG_LEVEL")] = "INFO"
    geofence_kinds: Annotated[
        Mapping[str, Kind],
        Field(alias="GEOFENCE_KINDS", description='JSON, {"user.entered_geofence": "enter", …}'),
        BeforeValidator(lambda text: from_json(text) if text else GEOFENCE_KINDS),
    ] = GEOFENCE_KINDS
    signature_scheme: Annotated[Literal["off", "milkrun", "radar"], Field(alias="SIGNATURE_SCHEME")] = "off"
    signature_secrets: Annotated[
        str, Field(alias="SIGNATURE_SECRETS", description="ssm:<parameter> or secretsmanager:<secret>")
    ] = ""
    region: Annotated[str, Field(validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"))] = ""
    endpoint_url: Annotated[str, Field(alias="AWS_ENDPOINT_URL")] = ""
    s3_endpoint_url: Annotated[str, Field(alias="AWS_ENDPOINT_URL_S3")] = ""
    kinesis_endpoint_url: Annotated[str, Field(alias="AWS_ENDPOINT_URL_KINESIS")] = ""

    def endpoint(self, service: Literal["s3", "kinesis"]) -> str:
        """Where a service is if not at AWS's own address, named by the same variables as for the SDK."""
        own = self.s3_endpoint_url if service == "s3" else self.kinesis_endpoint_url
        return own or self.endpoint_url
