"""Lambda's entry point for POST /v1/events. It only translates requests and responses, and writes the log."""

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

import msgspec

from aws.access import Access
from aws.credentials import preload
from aws.http import fetch
from aws.queue import RedriveQueue
from aws.stream import KinesisStream
from contract import logs
from contract.invocation import Context, LambdaEvent
from contract.metrics import with_metrics
from handler import request_log
from handler.content_type import form_of
from handler.decompress import inflated
from handler.http import Answer, Refused, Request, Unreadable, answer, problem, request_of, unavailable
from handler.identity import Keys, Speaker, Tokens
from handler.ingest import Delivery, Effects, Ports
from handler.ingest import ingest as ingest_batch
from handler.parse_body import parse_body
from handler.settings import Settings
from handler.signature import Secrets, verify
from handler.validate import Batch, unreadable, validate

ANSWER_SECONDS = 0.5  # the part of the function's timeout that is reserved for the response

preload(os.environ)


@dataclass(frozen=True, slots=True)
class App:
    settings: Settings
    ports: Ports
    secrets: Secrets
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    tokens: Tokens | None = None
    device_counts: request_log.DeviceCounts = field(default_factory=request_log.DeviceCounts)


def ingest(event: LambdaEvent, context: Context) -> Answer:
    """Handle one request. After any failure, the response tells the phone whether to send the batch again."""
    started = time.perf_counter()
    # A client can choose API Gateway's requestId with a header, but not the extended one.
    # (Amazon API Gateway Developer Guide: "Variables for data transformations for API Gateway".)
    request_id = str((event.get("requestContext") or {}).get("extendedRequestId") or context.aws_request_id)
    logs.bind(request_id=request_id)
    effects, facts = Effects(), dict[str, object]()
    gc.disable()  # a request creates no reference cycles, and many JSON values would trigger many collections
    try:
        response = _respond(event, context, request_id, effects, facts)
    except Refused as refused:
        request_log.report_refusal(refused)
        said = {"request_id": request_id, **refused.facts}
        headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
        return problem(refused.status, refused.code, refused.detail, said, headers)
    except Exception as error:  # any error, after which the phone keeps the batch and sends it again
        facts["error"] = logs.message_of(error)
        request_log.report_failure(error)
        response = unavailable(request_id)
    finally:
        gc.enable()
    facts["status"] = response["statusCode"]
    facts["total_ms"] = round((time.perf_counter() - started) * 1000, 1)
    request_log.report(facts, effects)
    return response


def _respond(
    event: LambdaEvent, context: Context, request_id: str, effects: Effects, facts: dict[str, object]
) -> Answer:
    app = _app()
    request = request_of(event)
    received_at = app.now()
    speaker = _speaker(event, request, app)
    facts |= request_log.request_facts(request, speaker)
    batch = _batch_of(request, app, speaker, received_at)
    delivery = Delivery(
        request_id=request_id,
        app_version=request.stored_header("x-app-version"),
        content_type=request.stored_header("content-type"),
        received_at=received_at,
        seconds_left=lambda: context.get_remaining_time_in_millis() / 1000 - ANSWER_SECONDS,
    )
    receipt = ingest_batch(batch, app.ports, delivery, effects)
    # Log these facts only now, because the phone sends the events of a failed request again.
    facts |= request_log.batch_facts(batch, received_at)
    facts["events_per_device"] = app.device_counts.most(batch.devices, received_at)
    if receipt.accepted + receipt.duplicates:
        return answer(202, msgspec.to_builtins(receipt), "application/json", {})
    detail = "The request contains no valid event. Its events are stored as rejected; do not send them again."
    return problem(400, "no_valid_event", detail, msgspec.to_builtins(receipt), {})


def _speaker(event: LambdaEvent, request: Request, app: App) -> Speaker:
    """Return the kind of a request's credential, and the device and user that a token names.

    A token is verified here; a signature is verified later, because that needs the body. Raises Refused (401) or
    RetryableError.
    """
    # Gateways and function URLs always add `requestContext`. A direct invocation, which lacks it, needs IAM permission.
    # (Amazon API Gateway Developer Guide: "Lambda proxy integrations in API Gateway".)
    if "requestContext" not in event:
        return Speaker("iam")
    is_signed = app.settings.signature_scheme != "off"
    authorization = request.headers.get("authorization")
    if app.tokens and (authorization or (app.settings.identity == "required" and not is_signed)):
        return app.tokens.speaker(authorization or "")
    return Speaker("signature" if is_signed else "api_key")


def _batch_of(request: Request, app: App, speaker: Speaker, received_at: datetime) -> Batch:
    """Check a request's type, signature and size, then validate its events. Raises Refused or RetryableError."""
    form = form_of(request)
    try:
        if speaker.kind == "signature":
            scheme, now = app.settings.signature_scheme, received_at.timestamp()
            verify(scheme, request.headers, lambda: _signed_text(request), app.secrets, now)
        text = inflated(request)
        ahead = timedelta(seconds=app.settings.max_clock_ahead_seconds)
        kinds = app.settings.geofence_kinds
        return validate(parse_body(text, form), form, kinds, received_at, speaker, ahead)
    except Unreadable as error:
        return unreadable(request.body, error.code, error.message, request.headers.get("content-encoding"))


def _signed_text(request: Request) -> bytes:
    """Return the text that the client signed: the inflated body, or the body as sent if it cannot be inflated."""
    try:
        return inflated(request)
    except Unreadable:
        return request.body


@cache
def _app() -> App:
    """Create the settings and clients on the first request, so that importing this module needs no AWS settings."""
    settings = Settings.of(os.environ)
    logs.configure(settings.log_level, with_metrics(settings.stage, settings.metrics))
    access = Access.of_function(os.environ)
    ports = Ports(
        archive=access.archive(settings.archive_bucket),
        stream=KinesisStream(access.client("kinesis"), settings.stream_name),
        redrive_queue=RedriveQueue(access.client("sqs"), settings.redrive_queue_url, settings.archive_bucket),
    )
    secrets = Secrets(lambda: _fetch_secrets(access, settings.signature_secrets))
    keys = Keys(lambda: fetch(settings.jwt_jwks_url))
    tokens = None if settings.identity == "off" else Tokens(settings, keys)
    return App(settings, ports, secrets, tokens=tokens)


def _fetch_secrets(access: Access, source: str) -> str:
    kind, _, name = source.partition(":")
    if kind != "ssm":
        raise ValueError("SIGNATURE_SECRETS must be ssm:<parameter>")
    return str(access.client("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
