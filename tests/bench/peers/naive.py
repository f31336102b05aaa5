"""A straightforward handler: it serializes pydantic models, uses default gzip, and makes one boto3 call per
service.

It sends the same events to S3 and Kinesis as our handler, but does not fulfil the rest of the contract (rejects,
duplicates, original texts, throttled records, claim checks). It exists only for comparison.
"""

import base64
import gzip
import hashlib
import json
import os
from datetime import UTC, datetime
from typing import Any

import boto3
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class User(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str | None = Field(None, alias="_id")
    user_id: str | None = Field(None, alias="userId")
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


class Batch(BaseModel):
    events: list[Event]


s3 = boto3.client("s3")
kinesis = boto3.client("kinesis")


def handler(request: dict[str, Any], _context: object) -> dict[str, Any]:
    body = base64.b64decode(request["body"])
    if request["headers"].get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    try:
        batch = Batch.model_validate({"events": json.loads(body)})
    except ValidationError as error:
        return {"statusCode": 400, "body": error.json()}
    lines = [json.dumps(event.model_dump(mode="json", by_alias=True)) for event in batch.events]
    text = ("\n".join(lines) + "\n").encode()
    now = datetime.now(UTC)
    key = f"events/dt={now:%Y-%m-%d}/hh={now:%H}/{hashlib.sha256(text).hexdigest()}.{len(lines)}.ndjson.gz"
    s3.put_object(Bucket=os.environ["ARCHIVE_BUCKET"], Key=key, Body=gzip.compress(text))
    records: list[Any] = [
        {"Data": line, "PartitionKey": (event.user and event.user.device_id) or ""}
        for event, line in zip(batch.events, lines, strict=True)
        if "geofence" in event.type
    ]
    if records:
        kinesis.put_records(StreamName=os.environ["STREAM_NAME"], Records=records)
    receipt = {"accepted": len(lines), "object_key": key}
    return {"statusCode": 202, "headers": {"Content-Type": "application/json"}, "body": json.dumps(receipt)}
