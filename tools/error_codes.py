"""All codes in the responses of the handler and the gateway, with their meaning for mobile developers.
docs/openapi.yaml is generated from this list. Codes are stable. A test compares the list with the handler's
source.
"""

from collections.abc import Mapping

# In `errors`: why one event was rejected. It is stored under rejected/.
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
    "created_at_in_future": "`createdAt` is too far ahead of our clock: an hour, unless the stage allows more.",
    "created_at_too_old": "`createdAt` is more than 400 days before our clock.",
    "device_mismatch": "The token does not speak for the event's device.",
    "event_too_large": "The event has more than 64 KiB.",
    "not_an_object": "An event must be a JSON object.",
    "invalid_json_value": "Inside the event: a name twice, NaN, a lone surrogate, bad UTF-8, "
    "a number beyond a double, or more than 32 levels.",
    "not_json": "The NDJSON line, or the body, is not strict JSON.",
}
# In `errors`, although the event was accepted.
NOTICE_CODES: Mapping[str, str] = {
    "event_id_conflict": "Accepted, although its device (or user) has already sent other content with the same `_id`.",
}
# In `errors`: the body cannot be split into events. It is stored under rejected/ as sent.
BODY_CODES: Mapping[str, str] = {
    "empty_body": "The body is empty.",
    "no_events": "The array contains no event.",
    "not_json": "The body is not JSON.",
    "invalid_envelope": "The envelope has both `event` and `events`, one of them twice, or one of the wrong type.",
    "bad_gzip": "The header is `Content-Encoding: gzip`, but the body is not complete gzip of at most 63 members.",
}
# `code` of a problem response that is sent before anything is stored, by status.
REFUSAL_CODES: Mapping[int, Mapping[str, str]] = {
    401: {
        "missing_token": "This stage requires `Authorization: Bearer <token>`.",
        "invalid_token": "The token is not from this stage's identity provider, or it was changed.",
        "token_expired": "The token has expired.",
        "token_without_device": "The token does not name a device.",
    },
    403: {
        "missing_signature": "This stage requires signed requests.",
        "signature_expired": "The timestamp is more than five minutes from our clock.",
        "bad_signature": "The signature does not match.",
    },
    413: {
        "body_too_large": "Over 1 MiB as sent.",
        "inflated_body_too_large": "Over 4 MiB inflated, or over 64 KiB and 100 times the size as sent.",
        "too_many_events": "Over 500 events.",
    },
    415: {
        "unsupported_media_type": "Neither JSON nor NDJSON, or not UTF-8.",
        "unsupported_encoding": "Neither plain nor gzip.",
    },
}
# Responses of API Gateway itself (serverless/api.yml), without calling the function.
GATEWAY_CODES: Mapping[int, Mapping[str, str]] = {
    403: {
        "invalid_api_key": "No API key, or an unknown one.",
        "access_denied": "A policy of the gateway refuses the request.",
        "no_such_path": "Events go to POST /v1/events.",
    },
    429: {
        "throttled": "The rate of this key is exceeded.",
        "quota_exceeded": "The day's quota of this key is used up.",
    },
    500: {"server_error": "The gateway failed."},
    504: {
        "no_answer": "The function could not be invoked, or it failed.",
        "no_answer_in_time": "The function did not answer in 29 s.",
    },
}
NO_VALID_EVENT = "no_valid_event"  # 400
UNAVAILABLE = "unavailable"  # 503
