"""A lower bound for the handler's CPU time: a handler that passes the events on and parses only
their ids, types, times and devices.

It uses msgspec, ISA-L's gzip, urllib3, and a 30-line request signer with a cached key. It has no strict JSON
parser, and does not reject events, retry calls or write log lines, so it is a bound rather than a usable handler.
"""

import hashlib
import hmac
import os
from datetime import UTC, datetime
from functools import cache

import msgspec
import urllib3
from isal import isal_zlib


class User(msgspec.Struct):
    device_id: str | None = msgspec.field(default=None, name="deviceId")


class Event(msgspec.Struct):
    id: str = msgspec.field(name="_id")
    type: str
    created_at: datetime = msgspec.field(name="createdAt")
    user: User | None = None


RAWS = msgspec.json.Decoder(list[msgspec.Raw])
EVENT = msgspec.json.Decoder(Event)
ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
HOST = ENDPOINT.removeprefix("http://")
POOL = urllib3.connection_from_url(ENDPOINT)


@cache
def _key(day: str, service: str) -> bytes:
    key = b"AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for part in (day, "us-east-1", service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _send(method: str, path: str, service: str, headers: dict[str, str], body: bytes) -> None:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers |= {"host": HOST, "x-amz-content-sha256": digest, "x-amz-date": moment}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"{method}\n{path}\n\n{lines}\n{names}\n{digest}".encode()
    scope = f"{moment[:8]}/us-east-1/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical).hexdigest()}"
    signature = hmac.digest(_key(moment[:8], service), text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    answer = POOL.urlopen(method, path, body, headers, retries=False)
    assert answer.status == 200


def handler(request: dict[str, object], _context: object) -> dict[str, object]:
    lines, records = [], []
    for raw in RAWS.decode(msgspec.json.format(msgspec.convert(request["body"], bytes), indent=-1)):
        event = EVENT.decode(raw)
        lines.append(bytes(raw))
        if "geofence" in event.type and event.user:
            records.append({"Data": lines[-1], "PartitionKey": event.user.device_id})
    text = b"\n".join([*lines, b""])
    now = datetime.now(UTC)
    key = (
        f"events/dt%3D{now:%Y-%m-%d}/hh%3D{now:%H}/{hashlib.sha256(text).hexdigest()}.{len(lines)}.ndjson.gz"
    )
    body = isal_zlib.compress(text, 1, 31)
    _send("PUT", f"/{os.environ['ARCHIVE_BUCKET']}/{key}", "s3", {"if-none-match": "*"}, body)
    if records:
        call = msgspec.json.encode({"StreamName": os.environ["STREAM_NAME"], "Records": records})
        kind = {
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": "Kinesis_20131202.PutRecords",
        }
        _send("POST", "/", "kinesis", kind, call)
    receipt = msgspec.json.encode({"accepted": len(lines), "object_key": key}).decode()
    return {"statusCode": 202, "headers": {"Content-Type": "application/json"}, "body": receipt}
