"""The scenarios: how the server responds in each, and what the client must do. The rule for clients is in
the kit's README.md ("The rule").

The server's first response in a scenario is the one that `plays` describes; some scenarios repeat it for later
requests. The checks examine what the client does with the events of the first request.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

RETRY_AFTER_SECONDS = 2
CLOCK_SLACK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Seen:
    """A received request: its time on the monotonic clock, its event ids, decompressed body and
    `Authorization` header, and the status of the response.
    """

    at: float
    ids: tuple[str, ...]
    body: bytes
    status: int | None
    token: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response from the server.

    If `status` is None, the server closes the connection without a response. If `hold` is true, it first
    keeps the connection open until the client gives up or the scenario ends, but for at most two minutes. `rejected`
    contains the ids of the events that a 202 reports as rejected, and `code` is the error code of rejected events or of
    a 415. `text` is the body of a response that does not come from Milkrun, or "" for Milkrun's body.
    """

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    rejected: Sequence[str] = ()
    code: str = "wrong_type"
    hold: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario. `plays` describes the server's responses. `wants` describes what the client must do. `reply` returns
    the server's response. `faults` returns the client's violations of the rule so far. `settled` returns whether the
    client has done everything that the scenario requires.

    `reply` is called with the earlier requests, and with the current request's event ids and `Authorization` header.
    """

    name: str
    plays: str
    wants: str
    reply: Callable[[Sequence[Seen], tuple[str, ...], str], Reply]
    faults: Callable[[Sequence[Seen]], list[str]]
    settled: Callable[[Sequence[Seen]], bool]


ACCEPTED = Reply(202)
# API Gateway's own 400 on a deployed stage, for example for a malformed header. It has a `request_id`, but no receipt.
_GATEWAY_400 = Reply(
    400,
    {"Content-Type": "application/problem+json"},
    text='{"type": "about:blank", "title": "Refused", "code": "refused_by_gateway", '
    '"detail": "The gateway refused the request.", "request_id": "conformance"}',
)


# --- replies ------------------------------------------------------------------------------------


def _page(status: int) -> Reply:
    return Reply(status, {"Content-Type": "text/html"}, text="<!doctype html><title>Sign in</title>")


def _first(reply: Reply) -> Callable[[Sequence[Seen], tuple[str, ...], str], Reply]:
    return lambda before, _ids, _token: ACCEPTED if before else reply


def _one_rejected(code: str) -> Callable[[Sequence[Seen], tuple[str, ...], str], Reply]:
    return lambda before, ids, _token: ACCEPTED if before else Reply(202, rejected=ids[:1], code=code)


def _forbidden_thrice(before: Sequence[Seen], _ids: tuple[str, ...], _token: str) -> Reply:
    return Reply(403) if len(before) < 3 else ACCEPTED


def _expired(before: Sequence[Seen], _ids: tuple[str, ...], token: str) -> Reply:
    """Return 401 for every request with the first request's token; if the first request has no token, return
    401 for the first three requests.
    """
    first = before[0].token if before else token
    is_refused = token == first if first else len(before) < 3
    # API Gateway renames the header WWW-Authenticate in this way, so HTTP clients do not see it.
    return Reply(401, {"x-amzn-Remapped-WWW-Authenticate": "Bearer"}) if is_refused else ACCEPTED


def _too_large(before: Sequence[Seen], ids: tuple[str, ...], _token: str) -> Reply:
    """Return 413 for every batch of several events, and for the first event of the scenario even if it is
    sent alone.
    """
    giant = before[0].ids[:1] if before else ids[:1]
    return Reply(413) if len(ids) > 1 or ids == giant else ACCEPTED


# --- checks -------------------------------------------------------------------------------------


def _not_sent_again(seen: Sequence[Seen]) -> list[str]:
    again = [later for later in seen[1:] if set(later.ids) & set(seen[0].ids)]
    return (
        [
            f"events of the batch were sent again after {seen[0].status} (requests: {len(again)}): delete the batch"
        ]
        if again
        else []
    )


def _all_sent_again(seen: Sequence[Seen]) -> list[str]:
    missing = set(seen[0].ids) - {event for later in seen[1:] for event in later.ids}
    return [f"{len(missing)} events were not sent again: keep the batch"] if missing else []


def _sent_again_identically(seen: Sequence[Seen]) -> list[str]:
    if any(later.body == seen[0].body for later in seen[1:]):
        return []
    return _all_sent_again(seen) or [
        "the batch was sent again with different bytes, so its events may be stored twice: send identical bytes"
    ]


def _after_pause(seen: Sequence[Seen]) -> list[str]:
    again = [later.at for later in seen[1:] if set(later.ids) & set(seen[0].ids)]
    early = again and again[0] - seen[0].at < RETRY_AFTER_SECONDS - CLOCK_SLACK_SECONDS
    return (
        [f"the batch was sent again before Retry-After ({RETRY_AFTER_SECONDS} s) had passed"] if early else []
    )


def _with_growing_pauses(seen: Sequence[Seen]) -> list[str]:
    at = [each.at for each in seen if set(each.ids) & set(seen[0].ids)]
    # After two doublings, each with a jitter of up to half, a pause is at least twice the first one.
    grew = len(at) < 4 or at[3] - at[2] > 1.5 * (at[1] - at[0])
    return [] if grew else ["the pauses between attempts do not grow"]


def _with_new_token(seen: Sequence[Seen]) -> list[str]:
    tried = [each for each in seen[1:] if set(each.ids) & set(seen[0].ids)]
    if seen[0].token and tried and all(each.token == seen[0].token for each in tried):
        return ["the batch was sent again with the same token after 401: get a new token"]
    return []


def _split(seen: Sequence[Seen]) -> list[str]:
    giant = seen[0].ids[:1]
    whole = [each.ids for each in seen if each.status == 413]
    faults = []
    if any(len(ids) > 1 and whole.count(ids) > 1 for ids in whole):
        faults.append("the same batch was sent again after 413: split it in two")
    if whole.count(giant) > 1:
        faults.append("a single event was sent again after 413: delete and report it")
    delivered = {event for each in seen if each.status == 202 for event in each.ids}
    if missing := set(seen[0].ids) - set(giant) - delivered:
        faults.append(f"{len(missing)} events that are small enough on their own were not delivered")
    return faults


def _all_of(*checks: Callable[[Sequence[Seen]], list[str]]) -> Callable[[Sequence[Seen]], list[str]]:
    return lambda seen: [fault for check in checks for fault in check(seen)]


def _at_once(seen: Sequence[Seen]) -> bool:
    return bool(seen)


def _when_passed(check: Callable[[Sequence[Seen]], list[str]]) -> Callable[[Sequence[Seen]], bool]:
    return lambda seen: bool(seen) and not check(seen)


def _accepted_again(seen: Sequence[Seen]) -> bool:
    """Return whether a request was accepted and the events of the first request were sent again."""
    return any(each.status == 202 for each in seen) and not _all_sent_again(seen)


_retry_after = {"Retry-After": str(RETRY_AFTER_SECONDS)}
_paused = _all_of(_all_sent_again, _after_pause)
_paused_identical = _all_of(_sent_again_identically, _after_pause)

SCENARIOS: Mapping[str, Scenario] = {
    each.name: each
    for each in (
        Scenario("accepted", "202", "deletes the batch", _first(ACCEPTED), _not_sent_again, _at_once),
        Scenario(
            "partial", "202, one event rejected", "deletes the batch",
            _one_rejected("wrong_type"), _not_sent_again, _at_once,
        ),
        Scenario(
            "clock-ahead", "202, one event rejected because the phone's clock is ahead",
            "deletes the batch and does not send the event again with another time",
            _one_rejected("created_at_in_future"), _not_sent_again, _at_once,
        ),
        Scenario("invalid", "400", "deletes the batch and reports it", _first(Reply(400)), _not_sent_again, _at_once),
        Scenario(
            "too-large", "413 for every batch of several events, and for the first event even if it is sent alone",
            "splits the batch in two and deletes the event that is too large",
            _too_large, _split, _when_passed(_split),
        ),
        Scenario(
            "forbidden", "403 three times", "keeps the batch and sends it again with increasing delays",
            _forbidden_thrice, _all_of(_all_sent_again, _with_growing_pauses),
            _accepted_again,
        ),
        Scenario(
            "token-expired", "401 until the app sends a different token; three times if it sends no token",
            "keeps the batch, gets a new token if it sends tokens, and sends the batch again with increasing delays",
            _expired, _all_of(_all_sent_again, _with_new_token, _with_growing_pauses),
            _accepted_again,
        ),
        Scenario(
            "throttled", "429 with Retry-After", "sends the batch again after the pause",
            _first(Reply(429, _retry_after)), _paused, _when_passed(_all_sent_again),
        ),
        Scenario(
            "unavailable", "503 with Retry-After", "sends the identical bytes again after the pause",
            _first(Reply(503, _retry_after)), _paused_identical, _when_passed(_sent_again_identically),
        ),
        Scenario(
            "proxy-200", "200 with an HTML page, as from a captive portal", "sends the identical bytes again",
            _first(_page(200)), _sent_again_identically, _when_passed(_sent_again_identically),
        ),
        Scenario(
            "proxy-400", "400 with an HTML page, as from a proxy", "sends the identical bytes again",
            _first(_page(400)), _sent_again_identically, _when_passed(_sent_again_identically),
        ),
        Scenario(
            "gateway-400", "400 without a receipt, as from API Gateway", "sends the identical bytes again",
            _first(_GATEWAY_400), _sent_again_identically, _when_passed(_sent_again_identically),
        ),
        Scenario(
            "cut", "the connection is closed without a response", "sends the identical bytes again",
            _first(Reply(None)), _sent_again_identically, _when_passed(_sent_again_identically),
        ),
        Scenario(
            "timeout", "the events are stored, but no response is sent",
            "times out and sends the identical bytes again",
            _first(Reply(None, hold=True)), _sent_again_identically, _when_passed(_sent_again_identically),
        ),
    )
}  # fmt: skip
