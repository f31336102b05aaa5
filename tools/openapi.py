"""Generate docs/openapi.yaml, docs/event.schema.json and the conformance kit's copy of this schema from the code:
`python -m tools.openapi [--check]`.

This module is not packaged with the functions. A test checks that the generated files are current.
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import yaml

from contract.event_limits import MAX_DEPTH, MAX_EVENT_BYTES
from contract.event_rules import CrossingFields, EventFields, LocationPing
from contract.geofence_event_types import GEOFENCE_KINDS
from contract.position_pings import ID_DIGITS, PING_TYPE
from handler.receipt import Receipt
from handler.request_limits import (
    FREE_INFLATED_BYTES,
    MAX_BODY_BYTES,
    MAX_EVENTS,
    MAX_INFLATED_BYTES,
    MAX_INFLATION,
)
from handler.signature import WINDOW_SECONDS
from tools import error_codes as codes

type Schema = dict[str, Any]

DOCS = Path(__file__).parents[1] / "docs"
KIT = Path(__file__).parents[1] / "tools/conformance/src/milkrun_conformance"
KIT_SCHEMA = KIT / "event.schema.json"
# Payloads in the kit's folder `good`, which the handler accepts (tests/unit/tools/conformance).
JSON_EXAMPLES = ("one", "several", "envelope", "location-pings")

LIMITS = {
    "body_too_large": MAX_BODY_BYTES,
    "inflated_body_too_large": MAX_INFLATED_BYTES,
    "too_many_events": MAX_EVENTS,
}
# The `detail` of each example, as the handler or the gateway sends it
DETAILS = {
    "missing_token": "Send `Authorization: Bearer <token>`.",
    "invalid_token": "This stage does not accept tokens from this issuer.",
    "token_expired": "The token has expired: send the batch with a new token.",
    "token_without_device": "The token has no claim `device_id` that names a device.",
    "missing_signature": "Sign the request with X-Milkrun-Timestamp and X-Milkrun-Signature.",
    "signature_expired": f"X-Milkrun-Timestamp is more than {WINDOW_SECONDS} seconds off: sign the request again.",
    "bad_signature": "The signature does not match.",
    "body_too_large": f"The body is larger than {MAX_BODY_BYTES} bytes: split the batch and send its parts.",
    "inflated_body_too_large": f"The inflated body is larger than {MAX_INFLATED_BYTES} bytes: split the batch.",
    "too_many_events": f"The body contains more than {MAX_EVENTS} events: split the batch and send its parts.",
    "unsupported_media_type": "Send application/json or application/x-ndjson, in UTF-8.",
    "unsupported_encoding": "Send the body uncompressed, or gzip it and set Content-Encoding: gzip.",
    "invalid_api_key": "Send the stage's API key in the header x-api-key.",
    "access_denied": "Access to this path is denied.",
    "no_such_path": "There is no such path; events go to POST /v1/events.",
    "throttled": "Send the identical batch again after the time in Retry-After.",
    "quota_exceeded": "This API key has used up its daily quota. Keep the batch and send it again later.",
    "server_error": "Send the identical batch again.",
    "no_answer": "The function did not answer. Send the identical batch again.",
    "no_answer_in_time": "The function did not answer in time. Send the identical batch again.",
    "unavailable": "The request could not be completed now. Send the identical batch again.",
}
RECEIPT: Schema = {
    "request_id": "JKJaXmPLvHcESHA=",
    "received": 2,
    "accepted": 1,
    "duplicates": 0,
    "rejected": 1,
    "object_key": f"events/dt=2026-11-16/hh=08/{'4a' * 32}.1.ndjson.gz",
    "rejected_key": f"rejected/dt=2026-11-16/hh=08/{'9c' * 32}.1.ndjson.gz",
    "errors": [
        {
            "index": 1,
            "event_id": "6543d1f3a2c4e70011aabbcd",
            "code": "device_mismatch",
            "field": "user.deviceId",
            "message": "The token is for a different device.",
        }
    ],
    "errors_omitted": 0,
}

# The renamed header is documented in the Amazon API Gateway Developer Guide, "Amazon API Gateway important notes".
CHALLENGE: Schema = {
    "schema": {"const": "Bearer"},
    "description": "API Gateway renames the header `WWW-Authenticate`, so HTTP clients do not see the challenge. "
    "Get a new token after every 401.",
}
ERROR: Schema = {
    "type": "object",
    "description": "An error in an event or in the body, or a notice about an accepted event (`event_id_conflict`). "
    "`code` is stable across versions; `message` is a human-readable explanation.",
    "required": ["index", "event_id", "code", "field", "message"],
    "properties": {
        "index": {
            "type": "integer",
            "minimum": 0,
            "description": "The event's position in the request, from 0.",
        },
        "event_id": {"type": ["string", "null"]},
        "code": {
            "type": "string",
            "enum": sorted({**codes.EVENT_CODES, **codes.NOTICE_CODES, **codes.BODY_CODES}),
        },
        "field": {"type": "string", "description": "A dotted path such as `geofence.tag`, or empty."},
        "message": {"type": "string"},
    },
}
HAS_DEVICE: Schema = {
    "description": "The device is `user.deviceId`, or the event's own `deviceId` if that is missing.",
    "anyOf": [
        {"required": ["deviceId"], "properties": {"deviceId": {"type": "string"}}},
        {
            "required": ["user"],
            "properties": {
                "user": {
                    "type": "object",
                    "required": ["deviceId"],
                    "properties": {"deviceId": {"type": "string"}},
                }
            },
        },
    ],
}
HAS_USER: Schema = {
    "required": ["user"],
    "properties": {
        "user": {
            "type": "object",
            "anyOf": [
                {"required": ["userId"], "properties": {"userId": {"type": "string"}}},
                {"required": ["_id"], "properties": {"_id": {"type": "string", "minLength": 1}}},
            ],
        }
    },
}
ENVELOPE_USER: Schema = {
    "type": ["object", "null"],
    "description": "The user of the events. If an event's `user` is missing or null, it gets this user's "
    "`userId`, `deviceId` and `_id`. An id that is not a string, is empty or is too long is not copied.",
}
LACKS_WHAT_EVENTS_HAVE: Schema = {
    "properties": {"_id": {"type": "null"}, "type": {"type": "null"}, "createdAt": {"type": "null"}}
}


def _ping(ping: Schema, user: Schema) -> Schema:
    """Return the JSON Schema of a ping. `ping` is the schema of its struct, `user` that of an event's user."""
    properties = {name: each for name, each in ping["properties"].items() if name in ping["required"]}
    return {
        "type": "object",
        "description": "A location ping: a position that an SDK sends without `_id`, `type` and "
        f"`createdAt`. It is stored with `type` = `{PING_TYPE}` and `createdAt` = `updatedAt`. Its `_id` is the "
        f"first {ID_DIGITS} hex digits of the SHA-256 of its text without insignificant whitespace. It is not "
        "published to the stream.",
        "required": ping["required"],
        "properties": properties | {"user": user},
    }


def event_schema() -> Schema:
    """Return the JSON Schema of one event, as far as JSON Schema can express the handler's rules."""
    _, definitions = msgspec.json.schema_components(
        (EventFields, CrossingFields, LocationPing), ref_template="#/$defs/{name}"
    )
    definitions = {"Envelope": definitions.pop("EventFields"), **definitions}
    definitions["GeofenceEvent"] = definitions.pop("CrossingFields")
    ping = definitions.pop("LocationPing")
    definitions["LocationPing"] = _ping(ping, definitions["Envelope"]["properties"]["user"])
    # Like the handler, JSON Schema accepts 2.0 as an integer.
    definitions["GeofenceEvent"]["properties"]["confidence"]["anyOf"][0]["type"] = "integer"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        "description": f"An event of the mobile app: strict JSON (no repeated names, no lone surrogates, numbers "
        f"within the range of a double) with at most {MAX_EVENT_BYTES // 1024} KiB and {MAX_DEPTH} levels of "
        "nesting. Unknown fields are stored, and an optional field that is null counts as absent.",
        "type": "object",
        "if": LACKS_WHAT_EVENTS_HAVE,
        "then": {"$ref": "#/$defs/LocationPing"},
        "else": {
            "if": {"required": ["type"], "properties": {"type": {"enum": list(GEOFENCE_KINDS)}}},
            "then": {"allOf": [{"$ref": "#/$defs/GeofenceEvent"}, HAS_DEVICE]},
            "else": {"allOf": [{"$ref": "#/$defs/Envelope"}, {"anyOf": [HAS_DEVICE, HAS_USER]}]},
        },
        "$defs": definitions,
    }


def openapi() -> Schema:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Milkrun",
            "version": "1",
            "summary": "Receives and stores the events of a mobile app.",
            "description": "The rule for clients. 2xx: delete the batch. 400: delete the batch and notify the "
            "developers; Milkrun has stored it. A 2xx or 400 whose body is not a JSON object with "
            "`received` comes from a proxy or API Gateway: treat it as no response. 413: split the batch in two and "
            "send both halves; if a single event gets 413, delete it and notify the developers. Any other 4xx: keep "
            "the batch, notify the developers, and send the batch again with increasing delays (after a 401, with a "
            "new token). Any other response, or none: send the identical bytes again with increasing delays. After a "
            "response with `Retry-After`, wait at least that many seconds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {
                "url": "https://{api}.execute-api.{region}.amazonaws.com/{stage}",
                "variables": {
                    "api": {"default": "api-id"},
                    "region": {"default": "us-east-1"},
                    "stage": {"default": "dev"},
                },
            }
        ],
        "paths": {"/v1/events": {"post": _operation()}},
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A token from the identity provider to which the app signs in. It names the "
                    "device whose events the request may contain. Some stages require it in addition to the "
                    "API key.",
                },
            },
            "schemas": _schemas(),
        },
    }


def _operation() -> Schema:
    event = {"$ref": "#/components/schemas/Event"}
    events = {"type": "array", "minItems": 1, "maxItems": MAX_EVENTS, "items": event}
    one = {"type": "object", "required": ["event"], "properties": {"event": event, "user": ENVELOPE_USER}}
    many = {"type": "object", "required": ["events"], "properties": {"events": events, "user": ENVELOPE_USER}}
    return {
        "operationId": "postEvents",
        "summary": "Store events and publish geofence events.",
        "description": f"A request has at most {MAX_BODY_BYTES} bytes as sent, {MAX_INFLATED_BYTES} bytes "
        f"decompressed (and at most {FREE_INFLATED_BYTES} bytes plus {MAX_INFLATION} times its size as sent), and "
        f"{MAX_EVENTS} events. Sending the same request again is safe: each event counts once.",
        "security": [{"apiKey": []}, {"apiKey": [], "token": []}],
        "parameters": [
            _header(
                "Content-Encoding",
                {"type": "string", "examples": ["gzip", "identity"]},
                "`gzip` (or `x-gzip`) for a compressed body; otherwise `identity`, or no header.",
            ),
            _header(
                "X-App-Version",
                {"type": "string"},
                "The app's version. Its first 64 characters are stored with each rejected event. The metadata of "
                "S3 objects contains as many of these characters as fit into 64 bytes after percent-encoding.",
            ),
            _header(
                "X-Milkrun-Timestamp",
                {"type": "string", "pattern": "^[0-9]{1,15}$"},
                f"Unix time in seconds, at most {WINDOW_SECONDS} s before or after the server's time. Required "
                "on stages with signed requests.",
            ),
            _header(
                "X-Milkrun-Signature",
                {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                "Hex HMAC-SHA256 of `<timestamp>.<body before compression>`. Required on stages with signed requests.",
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"anyOf": [event, events, one, many]},
                    "examples": {name: {"value": _payload(f"{name}.json")} for name in JSON_EXAMPLES},
                },
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "One event per line."},
                    "examples": {"lines": {"value": (KIT / "payloads/good/lines.ndjson").read_text()}},
                },
            },
        },
        "responses": _responses(),
    }


_GATEWAY_RULES = {
    429: "Send the identical batch again later.",
    500: "Send the identical batch again.",
    504: "Send the identical batch again.",
}


def _responses() -> Schema:
    retry_after = {
        "Retry-After": {"schema": {"type": "integer"}, "description": "The number of seconds to wait."}
    }
    responses: Schema = {
        "202": {
            "description": (
                "At least one event was accepted, and all accepted events are durable: delete the batch."
            ),
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Receipt"},
                    "examples": {"one_rejected": {"value": RECEIPT}},
                }
            },
        },
        "400": _problem(
            "The body is unreadable or contains no valid event: delete the batch and notify the developers. "
            "Milkrun has stored it.",
            "NoValidEvent",
        ),
    }
    for status, refusals in codes.REFUSAL_CODES.items():
        meaning, schemas, examples = (
            f"Nothing was stored. {_meanings(refusals)}",
            [f"Refusal{status}"],
            [*refusals],
        )
        if status == 403:
            meaning += f" Responses from the gateway: {_meanings(codes.GATEWAY_CODES[403])}"
            schemas += ["Gateway403"]
            examples += codes.GATEWAY_CODES[403]
        responses[str(status)] = _with_examples(_problem(meaning, *schemas), status, examples)
    responses["401"]["headers"] = {"x-amzn-Remapped-WWW-Authenticate": CHALLENGE}
    # LocalStack ignores the template's problem+json responses and sends its own as application/json.
    responses["403"]["content"]["application/json"] = {"schema": {"type": "object"}}
    for status, rule in _GATEWAY_RULES.items():
        answers = codes.GATEWAY_CODES[status]
        responses[str(status)] = {
            **_with_examples(_problem(f"{_meanings(answers)} {rule}", f"Gateway{status}"), status, answers),
            "headers": retry_after,
            "x-given-by": "gateway",
        }
    unavailable = _problem(
        "The batch was processed only partly or not at all: send the identical batch again.", "Unavailable"
    )
    responses["503"] = {
        **_with_examples(unavailable, 503, [codes.UNAVAILABLE]),
        "headers": {"Retry-After": {**retry_after["Retry-After"], "required": True}},
    }
    return dict(sorted(responses.items()))


def _schemas() -> Schema:
    event = event_schema()
    definitions = event.pop("$defs")
    event.pop("$schema")
    schemas = {"Event": event, **definitions}
    text = json.dumps(schemas, allow_nan=False).replace("#/$defs/", "#/components/schemas/")
    receipt = _receipt()
    problem = _problem_schema()
    return {
        **json.loads(text),
        "Error": ERROR,
        "Receipt": receipt,
        "NoValidEvent": {
            "allOf": [_with_code(problem, 400, [codes.NO_VALID_EVENT]), receipt],
        },
        **{
            f"Refusal{status}": _with_code(problem, status, list(refusals))
            for status, refusals in codes.REFUSAL_CODES.items()
        },
        **{
            f"Gateway{status}": _with_code(problem, status, list(answers))
            for status, answers in codes.GATEWAY_CODES.items()
        },
        "Unavailable": _with_code(problem, 503, [codes.UNAVAILABLE]),
    }


def _receipt() -> Schema:
    kinds: dict[object, Schema] = {
        int: {"type": "integer", "minimum": 0},
        str: {"type": "string"},
        str | None: {"type": ["string", "null"]},
    }
    properties: Schema = {
        field.name: kinds.get(field.type, {"type": "array", "items": {"$ref": "#/components/schemas/Error"}})
        for field in dataclasses.fields(Receipt)
    }
    return {
        "type": "object",
        "description": "received = accepted + duplicates + rejected; an unreadable body counts as one event. "
        "`accepted` is the number of lines in the object with the key `object_key`, and `rejected` is the "
        "number of lines in the object with the key `rejected_key`. A "
        "response has at most 64 KiB; `errors_omitted` is the number of errors that did not fit.",
        "required": list(properties),
        "properties": properties,
    }


def _problem_schema() -> Schema:
    return {
        "type": "object",
        "description": "A problem response (RFC 9457).",
        "required": ["type", "title", "status", "code", "detail", "request_id"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string", "description": "A stable, machine-readable error code."},
            "detail": {"type": "string", "description": "A human-readable explanation."},
            "request_id": {"type": "string"},
            "limit": {
                "type": "integer",
                "description": "The limit that was exceeded: bytes, or number of events.",
            },
        },
    }


def _with_code(problem: Schema, status: int, allowed: list[str]) -> Schema:
    required = [*problem["required"], *(["limit"] if status == 413 else [])]
    known = {name: problem["properties"][name] for name in required}
    properties = known | {"status": {"const": status}, "code": {"enum": allowed}}
    return {"type": "object", "required": required, "properties": properties}


def _problem(description: str, *schemas: str) -> Schema:
    references = [{"$ref": f"#/components/schemas/{schema}"} for schema in schemas]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def _with_examples(response: Schema, status: int, examples: Iterable[str]) -> Schema:
    """Add an example for each error code in `examples` to the response; return the response."""
    described = response["content"]["application/problem+json"]
    described["examples"] = {code: {"value": _refusal(status, code)} for code in examples}
    return response


def _refusal(status: int, code: str) -> Schema:
    refusal = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": DETAILS[code],
        "request_id": RECEIPT["request_id"],
    }
    return refusal | ({"limit": LIMITS[code]} if status == 413 else {})


def _payload(name: str) -> object:
    return json.loads((KIT / "payloads/good" / name).read_text())


def _meanings(meant: Mapping[str, str]) -> str:
    return " ".join(f"`{code}`: {meaning}" for code, meaning in meant.items())


def _header(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, _data: object) -> bool:
        return True


def files() -> dict[Path, str]:
    """Return the content of each generated file by path. The conformance kit is a separate package and has
    its own copy of the event schema.
    """
    note = "# Generated from the code by `python -m tools.openapi`; a test keeps it current.\n"
    text = yaml.dump(openapi(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110)
    schema = json.dumps(event_schema(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return {DOCS / "openapi.yaml": note + text, DOCS / "event.schema.json": schema, KIT_SCHEMA: schema}


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        sys.stderr.write("Usage: python -m tools.openapi [--check]\n")
        return 2
    stale = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        sys.stderr.writelines(f"{path} is not current: run python -m tools.openapi\n" for path in stale)
        return 1 if stale else 0
    for path in stale:
        path.write_text(files()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
