"""What the server plays, and what a client must do about it (docs/openapi.yaml has the rule).

A fault meets the first request of a scenario; the client is judged by what it does with its events.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

RETRY_AFTER_SECONDS = 2
CLOCK_SLACK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: when (monotonic), the ids of its events, its body inflated, the status it was given."""

    at: float
    ids: tuple[str, ...]
    body: bytes
    status: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """No status: no answer. `hold` keeps the connection open, and silent, until the client gives up."""

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    rejected: Sequence[str] = ()
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """`reply` decides by the requests before; `faults` says what was wrong; `settled` when to judge."""

    name: str
    plays: str
    wants: str
    reply: Callable[[Sequence[Seen], tuple[str, ...]], Reply]
    faults: Callable[[Sequence[Seen]], list[str]]
    settled: Callable[[Sequence[Seen]], bool]


ACCEPTED = Reply(202)


# --- replies ------------------------------------------------------------------------------------


def _first(reply: Reply) -> Callable[[Sequence[Seen], tuple[str, ...]], Reply]:
    return lambda before, _ids: ACCEPTED if before else reply


def _one_rejected(before: Sequence[Seen], ids: tuple[str, ...]) -> Reply:
    return ACCEPTED if before else Reply(202, rejected=ids[:1])


def _forbidden_thrice(before: Sequence[Seen], _ids: tuple[str, ...]) -> Reply:
    return Reply(403) if len(before) < 3 else ACCEPTED


def _too_large(before: Sequence[Seen], ids: tuple[str, ...]) -> Reply:
    """More than one event is too large, and the first event of all is so by itself."""
    giant = before[0].ids[:1] if before else ids[:1]
    return Reply(413) if len(ids) > 1 or ids == giant else ACCEPTED


# --- judgements ---------------------------------------------------------------------------------


def _forgotten(seen: Sequence[Seen]) -> list[str]:
    again = [later for later in seen[1:] if set(later.ids) & set(seen[0].ids)]
    return [f"sent again after {seen[0].status}, {len(again)} times: delete or drop it"] if again else []


def _again_whole(seen: Sequence[Seen]) -> list[str]:
    missing = set(seen[0].ids) - {event for later in seen[1:] for event in later.ids}
    return [f"{len(missing)} events did not come again: keep the batch"] if missing else []


def _again_identical(seen: Sequence[Seen]) -> list[str]:
    if any(later.body == seen[0].body for later in seen[1:]):
        return []
    return _again_whole(seen) or [
        "it came again with other bytes: the same request is stored once, another twice"
    ]


def _after_pause(seen: Sequence[Seen]) -> list[str]:
    again = [later.at for later in seen[1:] if set(later.ids) & set(seen[0].ids)]
    early = again and again[0] - seen[0].at < RETRY_AFTER_SECONDS - CLOCK_SLACK_SECONDS
    return [f"sent again before the {RETRY_AFTER_SECONDS} s of Retry-After were over"] if early else []


def _with_growing_pauses(seen: Sequence[Seen]) -> list[str]:
    at = [each.at for each in seen if set(each.ids) & set(seen[0].ids)]
    # Twice doubled, with a jitter of half, is at least twice as long.
    grew = len(at) < 4 or at[3] - at[2] > 1.5 * (at[1] - at[0])
    return [] if grew else ["the pauses between tries do not grow"]


def _split(seen: Sequence[Seen]) -> list[str]:
    giant = seen[0].ids[:1]
    whole = [each.ids for each in seen if each.status == 413]
    faults = []
    if any(len(ids) > 1 and whole.count(ids) > 1 for ids in whole):
        faults.append("the same batch was sent again after 413: split it in two")
    if whole.count(giant) > 1:
        faults.append("a single event was sent again after 413: drop and report it")
    delivered = {event for each in seen if each.status == 202 for event in each.ids}
    if missing := set(seen[0].ids) - set(giant) - delivered:
        faults.append(f"{len(missing)} events that would fit by themselves never came")
    return faults


def _all_of(*judgements: Callable[[Sequence[Seen]], list[str]]) -> Callable[[Sequence[Seen]], list[str]]:
    return lambda seen: [fault for judgement in judgements for fault in judgement(seen)]


def _at_once(seen: Sequence[Seen]) -> bool:
    return bool(seen)


def _when(judgement: Callable[[Sequence[Seen]], list[str]]) -> Callable[[Sequence[Seen]], bool]:
    return lambda seen: bool(seen) and not judgement(seen)


_retry_after = {"Retry-After": str(RETRY_AFTER_SECONDS)}
_paused = _all_of(_again_whole, _after_pause)
_paused_identical = _all_of(_again_identical, _after_pause)

SCENARIOS: Mapping[str, Scenario] = {
    each.name: each
    for each in (
        Scenario("accepted", "202", "deletes the batch", _first(ACCEPTED), _forgotten, _at_once),
        Scenario("partial", "202, one rejected", "deletes the batch", _one_rejected, _forgotten, _at_once),
        Scenario("invalid", "400", "drops and reports it", _first(Reply(400)), _forgotten, _at_once),
        Scenario(
            "too-large", "413 until it is small enough; one event never is", "splits in two, drops the one",
            _too_large, _split, _when(_split),
        ),
        Scenario(
            "forbidden", "403 three times", "keeps the batch, pauses longer each time",
            _forbidden_thrice, _all_of(_again_whole, _with_growing_pauses),
            lambda seen: sum(each.status == 202 for each in seen) > 0,
        ),
        Scenario(
            "throttled", "429 with Retry-After", "sends again after the pause",
            _first(Reply(429, _retry_after)), _paused, _when(_again_whole),
        ),
        Scenario(
            "unavailable", "503 with Retry-After", "sends the identical bytes after the pause",
            _first(Reply(503, _retry_after)), _paused_identical, _when(_again_identical),
        ),
        Scenario(
            "cut", "the connection ends without an answer", "sends the identical bytes again",
            _first(Reply(None)), _again_identical, _when(_again_identical),
        ),
        Scenario(
            "timeout", "stored, but no answer comes", "gives up waiting, sends the identical bytes again",
            _first(Reply(None, hold=True)), _again_identical, _when(_again_identical),
        ),
    )
}  # fmt: skip
