"""Check a response: its schema in docs/openapi.yaml, the counts and reasons of its receipt, and the object
keys in the receipt.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.faults.phones import Try
from tools.fleet.client import rejects_in
from tools.fleet.phones import Post
from tools.fleet.rounds import Planned

type Json = dict[str, Any]

_OPENAPI = Path(__file__).parents[2] / "docs/openapi.yaml"


def stored_form(post: Post, event: Planned) -> Json:
    """Return the form in which an accepted event must be stored.

    That is the event as sent; if it has no user, the ids of the envelope's user are added.
    """
    sent: Json = json.loads(event.text)
    if post.form == "envelope" and "user" not in sent:
        sender = json.loads(post.user)
        sent["user"] = {name: sender[name] for name in ("userId", "deviceId", "_id") if name in sender}
    return sent


def response_problems(post: Post, one: Try, objects: Mapping[str, Sequence[bytes]]) -> Iterator[str]:
    """Yield the problems of a response.

    The response must match docs/openapi.yaml; its counts, reasons and object keys must be correct. A 503 from the
    function needs only a Retry-After header. A response that may come from the gateway (429, 500, 502, 504) is not
    checked.
    """
    match one.status:
        case None | 429 | 500 | 502 | 504:
            return
        case 503:
            if "code" in (one.answer or {}) and not one.retry_after:
                yield "no Retry-After"
            return
        case 202 | 400:
            pass
        case _:
            yield "unexpected status"
            return
    if one.answer is None:
        yield "not JSON"
        return
    yield from _schema_problems(one)
    answer = one.answer
    codes = {i: e.code for i, e in enumerate(post.events) if e.code is not None}
    valid = {json.dumps(stored_form(post, e), sort_keys=True) for e in post.events if e.code is None}
    duplicates = len(post.events) - len(codes) - len(valid)
    expected = {
        "received": len(post.events),
        "accepted": len(valid),
        "duplicates": duplicates,
        "rejected": len(codes),
    }
    if (found := {name: answer.get(name) for name in expected}) != expected:
        yield f"counts {found}, expected {expected}"
    if dict(rejects_in(dict(answer))) != codes:
        yield f"reasons {dict(rejects_in(dict(answer)))}, expected {codes}"
    if (one.status == 202) != bool(valid):
        yield "202 must be returned if and only if an event was accepted"
    for name, wanted, prefix in (
        ("object_key", len(valid), "events"),
        ("rejected_key", len(codes), "rejected"),
    ):
        key = str(answer.get(name) or "")
        if not wanted:
            if key:
                yield f"{name} is set although the object would be empty"
        elif key not in objects:
            yield f"{name} {key} is not in S3"
        elif len(objects[key]) != wanted or not key.startswith(f"{prefix}/"):
            yield f"{name} {key} has {len(objects[key])} lines, expected {wanted}"


def _schema_problems(one: Try) -> Iterator[str]:
    validators = _validators()
    media_type = one.content_type.partition(";")[0]
    validator = validators.get((str(one.status), media_type))
    if validator is None:
        yield f"{media_type!r} is not in docs/openapi.yaml"
    elif problem := next(validator.iter_errors(one.answer), None):
        yield problem.message[:200]


@cache
def _validators() -> Mapping[tuple[str, str], jsonschema.Draft202012Validator]:
    document = yaml.safe_load(_OPENAPI.read_text())
    return {
        (status, media_type): jsonschema.Draft202012Validator(
            {**described["schema"], "components": document["components"]}
        )
        for status, response in document["paths"]["/v1/events"]["post"]["responses"].items()
        for media_type, described in response.get("content", {}).items()
    }
