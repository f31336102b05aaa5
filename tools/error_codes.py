"""The codes in the responses of the handler and the gateway, each with its meaning for mobile developers.

docs/openapi.yaml is generated from this list. That document contains every code, but only the meanings of the refusals
and of the gateway's codes. The codes are stable across versions. A test compares the list with the handler's source.
`refused_by_gateway` (the gateway's other 4xx responses) is not in the list.
"""

from collections.abc import Mapping

# Codes in `errors` that say why an event was rejected. The event is stored under rejected/.
EVENT_CODES: Mapping[str, str] = {
    "missing_id": "`_id` is missing, and the object is not a location ping.",
    "missing_type": "`type` is missing.",
    "missing_created_at": "`createdAt` is missing.",
    "missing_device": "A geofence event needs `user.deviceId` or `deviceId`.",
    "missing_identity": "An event needs a device id, `user.userId` or `user._id`.",
    "missing_geofence": "A geofence event needs `geofence` with `tag` and `externalId`.",
    "wrong_type": "The field has the wrong JSON type.",
    "field_length": "An id must have 1 to 128 characters and at most 256 bytes of UTF-8; `type` must not be empty.",
    "out_of_range": "`confidence` must be 0, 1, 2 or 3.",
    "invalid_created_at": "`createdAt` must be a time with an offset from UTC, in the format of RFC 3339 or ISO 8601.",
    "created_at_in_future": "`createdAt` is more than an hour (or the stage's own limit) ahead of our clock.",
    "created_at_too_old": "`createdAt` is more than 400 days before our clock.",
    "device_mismatch": "The token is not for the event's device.",
    "event_too_large": "The event is larger than 64 KiB.",
    "not_an_object": "An event must be a JSON object.",
    "invalid_json_value": "The event in a JSON body is not strict JSON. It contains, for example, a repeated name, "
    "NaN, a lone surrogate, invalid UTF-8, a number outside the range of a double, or more than 32 levels of nesting.",
    "not_json": "The NDJSON line, or the body, is not strict JSON.",
}
# Codes in `errors` for an event that was accepted.
NOTICE_CODES: Mapping[str, str] = {
    "event_id_conflict": "The event was accepted, although its device (or user) has already sent "
    "different content with the same `_id` in this request.",
}
# Codes in `errors` that say why a body cannot be split into events. The body is stored under rejected/ as sent.
BODY_CODES: Mapping[str, str] = {
    "empty_body": "The body is empty.",
    "no_events": "The body contains no event.",
    "not_json": "The body is not JSON.",
    "invalid_envelope": "The envelope contains both `event` and `events`, or one of its members `event`, `events` and "
    "`user` twice, or its `events` is not an array, or its `user` is invalid.",
    "bad_gzip": "The header is `Content-Encoding: gzip`, but the body is not complete gzip data of at most 63 members.",
}
# Status → the values of `code` in problem responses that are sent before anything is stored.
REFUSAL_CODES: Mapping[int, Mapping[str, str]] = {
    401: {
        "missing_token": "This stage requires `Authorization: Bearer <token>`.",
        "invalid_token": "The token is malformed, has over 8192 characters, was altered, is not valid yet, or is not "
        "from this stage's issuer or for its audience.",
        "token_expired": "The token has expired.",
        "token_without_device": "The token does not name a device.",
    },
    403: {
        "missing_signature": "This stage requires signed requests.",
        "signature_expired": "The timestamp differs from our clock by more than five minutes.",
        "bad_signature": "The signature does not match.",
    },
    413: {
        "body_too_large": "The body is larger than 1 MiB as sent.",
        "inflated_body_too_large": "The decompressed body is larger than 4 MiB, or larger than 64 KiB plus "
        "100 times its size as sent.",
        "too_many_events": "The request contains more than 500 events.",
    },
    415: {
        "unsupported_media_type": "The content type is neither JSON nor NDJSON, or its charset is not UTF-8.",
        "unsupported_encoding": "The content encoding is neither gzip nor identity.",
    },
}
# API Gateway's own responses (serverless/gateway-responses.js), sent if the function is not called or does not respond.
GATEWAY_CODES: Mapping[int, Mapping[str, str]] = {
    403: {
        "invalid_api_key": "The API key is missing or unknown.",
        "access_denied": "A policy of the gateway refuses the request.",
        "no_such_path": "There is no such path; events go to POST /v1/events.",
    },
    429: {
        "throttled": "The rate limit of the API key or of the AWS account is exceeded.",
        "quota_exceeded": "The API key's daily quota is used up.",
    },
    500: {"server_error": "The gateway failed."},
    504: {
        "no_answer": "The function could not be invoked, or it failed.",
        "no_answer_in_time": "The function did not answer within 29 s.",
    },
}
NO_VALID_EVENT = "no_valid_event"  # 400
UNAVAILABLE = "unavailable"  # 503
