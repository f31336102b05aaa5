"""Retry calls after transient errors, and resend the failed parts of batch calls."""

import random
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from itertools import batched
from time import sleep

from aws.errors import NoResponseError, PermanentError, RetryableError, ServiceError

TRIES = 3  # attempts per call
# Functions make fewer attempts, because a phone may be waiting. handler/publish_with_retries.py retries Kinesis calls.
FUNCTION_TRIES = {"kinesis": 1, "sqs": 2, "ssm": 2}
# The maximum pause after a call's first attempt; it doubles with every attempt.
S3_BASE_SECONDS = 1.0
JSON_BASE_SECONDS = 0.1
# The maximum pauses before the rejected parts of a batch call are sent again.
PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8)

# The errors to retry, besides codes such as RequestThrottled (SQS) and ThrottlingException. (AWS SDKs and Tools
# Reference Guide: "Retry behavior".) S3 returns 409 while another write to the same key is in progress. (Amazon S3
# User Guide: "How to prevent object overwrites with conditional writes".)
TRANSIENT_STATUSES = frozenset({409, 429, 500, 502, 503, 504})
TRANSIENT_CODES: Set[str] = {
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "SlowDown",
}

# With the default generator of `random`, environments restored from one snapshot would generate the same numbers.
# (AWS Lambda Developer Guide: "Handling uniqueness with Lambda SnapStart".)
_RANDOM = random.SystemRandom()


def jitter(max_seconds: float) -> float:
    """Return a random number of seconds from 0 to `max_seconds` (full jitter)."""
    return _RANDOM.uniform(0, max_seconds)


def retrying[T](call: Callable[[], T], tries: int, base_seconds: float) -> T:
    """Call `call` until it succeeds, at most `tries` times, and return its result.

    Raises the error of `call` if it is not transient, or if the last attempt failed. The pause before attempt n + 1 is
    at most base_seconds · 2ⁿ⁻¹, with full jitter.
    """
    for attempt in range(1, tries):
        try:
            return call()
        except NoResponseError:
            pass
        except ServiceError as error:
            is_transient = "Throttl" in error.code or error.code in TRANSIENT_CODES
            if not is_transient and error.status not in TRANSIENT_STATUSES:
                raise
        sleep(jitter(base_seconds * 2 ** (attempt - 1)))
    return call()


def send_until_done[K: Hashable, T](
    send: Callable[[Sequence[T]], Sequence[K]], parts: Mapping[K, T], service: str
) -> dict[K, Exception]:
    """Send all parts, and return the failures by key.

    `send` returns the keys of the parts that the service rejected; they are resent after pauses. A batch that the
    service will never accept is split in half until the invalid part is isolated. Other errors end the attempts.
    """
    failures: dict[K, Exception] = {}
    left = dict(parts)
    for pause in (*PAUSES_SECONDS, 0.0):
        try:
            undone = send(list(left.values()))
        except PermanentError as error:
            if len(left) == 1:
                return failures | dict.fromkeys(left, error)
            for half in batched(left.items(), (len(left) + 1) // 2, strict=False):
                failures |= send_until_done(send, dict(half), service)
            return failures
        except Exception as error:  # whatever the error, the caller tries these parts again
            return failures | dict.fromkeys(left, error)
        left = {key: left[key] for key in undone}
        if not left:
            return failures
        sleep(jitter(pause))
    return failures | dict.fromkeys(left, RetryableError(f"{service} throttled or failed all attempts"))
