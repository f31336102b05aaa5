"""A handler built as in the documentation of Powertools for AWS Lambda, with its event handler, parser,
logger and metrics.

Like the naive peer, it does not keep the original texts, because it serializes models.
"""

import gzip
import hashlib
import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.parser import BaseModel, parse
from pydantic import ConfigDict, Field


class User(BaseModel):
    model_config = ConfigDict(extra="allow")

    device_id: str | None = Field(None, alias="deviceId")


class Geofence(BaseModel):
    model_config = ConfigDict(extra="allow")

    tag: str
    external_id: str = Field(alias="externalId")


class Event(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str = Field(alias="_id")
    type: str
    created_at: datetime = Field(alias="createdAt")
    user: User | None = None
    geofence: Geofence | None = None


logger = Logger(service="bench")
metrics = Metrics(namespace="Bench", service="bench")
app = APIGatewayRestResolver()
s3 = boto3.client("s3")
kinesis = boto3.client("kinesis")


@app.post("/v1/events")
def post_events() -> Response[str]:
    events = parse(app.current_event.json_body, model=list[Event])
    lines = [event.model_dump_json(by_alias=True) for event in events]
    text = ("\n".join(lines) + "\n").encode()
    now = datetime.now(UTC)
    key = f"events/dt={now:%Y-%m-%d}/hh={now:%H}/{hashlib.sha256(text).hexdigest()}.{len(lines)}.ndjson.gz"
    s3.put_object(Bucket=os.environ["ARCHIVE_BUCKET"], Key=key, Body=gzip.compress(text))
    records: list[Any] = [
        {"Data": line, "PartitionKey": (event.user and event.user.device_id) or ""}
        for event, line in zip(events, lines, strict=True)
        if "geofence" in event.type
    ]
    if records:
        kinesis.put_records(StreamName=os.environ["STREAM_NAME"], Records=records)
    for name, value in (("received", len(lines)), ("accepted", len(lines)), ("published", len(records))):
        metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)
    logger.info("events_ingested", accepted=len(lines), object_key=key)
    body = f'{{"accepted":{len(lines)},"object_key":"{key}"}}'
    return Response(status_code=202, content_type="application/json", body=body)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(request: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.resolve(request, context)
