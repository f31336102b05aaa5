"""The state of each source (S3, a queue, the logs, DynamoDB or Snowflake): whether it answers, since when it has been
in that state, and why it does not answer.

The texts are shown to users and contain no secrets.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

from cli.deadline import NoAnswerError
from cli.refusal import Refusal

type State = Literal["starting", "ok", "down", "off", "idle"]

type Cause = Literal["unreachable", "credentials", "other"]

SOURCES = {
    "archive": "S3: the archive",
    "live": "SQS: notifications from the archive's topic and the visits event bus",
    "logs": "CloudWatch: the functions' log lines",
    "visits": "DynamoDB: the visits table",
    "queues": "SQS: the redrive queue and the dead-letter queue",
    "snowflake": "Snowflake: the warehouse",
}
MAX_REASON = 300


@dataclass
class Source:
    name: str
    what: str
    state: State
    since: str
    reason: str | None = None
    last_ok_at: str | None = None
    cause: Cause | None = None

    def row(self) -> dict[str, object]:
        return {
            "name": self.name,
            "state": self.state,
            "since": self.since,
            "reason": self.reason,
            "cause": self.cause,
            "last_ok_at": self.last_ok_at,
            "what": self.what,
        }


class Sources:
    """The states of all sources. `now` returns the current time as text."""

    def __init__(self, now: Callable[[], str], secrets: Iterable[str] = ()) -> None:
        self._now = now
        self._secrets = tuple(secret for secret in secrets if len(secret) > 3)
        self._all = {name: Source(name, what, "starting", now()) for name, what in SOURCES.items()}
        self.changed = False

    def say(self, name: str, state: State, reason: str | None = None, cause: Cause | None = None) -> None:
        source, reason = self._all[name], None if reason is None else self.without_secrets(reason)
        if state == "ok":
            source.last_ok_at = self._now()
        if (source.state, source.reason) == (state, reason):
            return
        if source.state != state:
            source.since = self._now()
        source.state, source.reason = state, reason
        source.cause = (cause or "other") if state == "down" else None
        self.changed = True

    def why_down(self, name: str) -> str | None:
        """Return a sentence that says why the source is down; None if it is not down."""
        source = self._all[name]
        return (
            f"{name} has been down since {source.since}: {source.reason}" if source.state == "down" else None
        )

    def is_unreachable(self, name: str) -> bool:
        return self._all[name].cause == "unreachable"

    def why_unknown(self, name: str) -> str | None:
        """Return why the source's data is unknown (the source is down, or has not been read yet); None if the
        data is known.
        """
        if self._all[name].state == "starting":
            return f"{name} is being read for the first time"
        return self.why_down(name)

    def rows(self) -> list[dict[str, object]]:
        return [source.row() for source in self._all.values()]

    def without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= MAX_REASON else text[:MAX_REASON] + "…"


def reason_of(fault: BaseException) -> str:
    if isinstance(fault, ClientError):
        said = fault.response.get("Error", {})
        return f"{said.get('Code', 'error')}: {said.get('Message', fault)}"
    return str(fault) or type(fault).__name__


def cause_of(fault: BaseException) -> Cause:
    """Return the cause of a failure: the connection, the credentials, or something else."""
    if is_about_credentials(fault):
        return "credentials"
    if isinstance(fault, ConnectionError | HTTPClientError | NoAnswerError | OSError):
        return "unreachable"
    if isinstance(fault, Refusal) and isinstance(fault.__cause__ or fault.__context__, BotoCoreError):
        cause = fault.__cause__ or fault.__context__
        return cause_of(cause) if cause else "other"
    return "unreachable" if type(fault).__name__ in ("OperationalError", "HttpError") else "other"


def is_of_aws(fault: BaseException) -> bool:
    """Return whether an error came from a call to AWS. `Archive` raises a Refusal whose context is such an error."""
    return any(isinstance(each, BotoCoreError | ClientError) for each in (fault, fault.__context__))


def is_about_credentials(fault: BaseException) -> bool:
    """Return whether expired or invalid credentials may have caused an error."""
    if isinstance(fault, ClientError):
        code = str(fault.response.get("Error", {}).get("Code", ""))
        return "Token" in code or "Credential" in code or code in ("InvalidClientTokenId", "AuthFailure")
    return "Credential" in type(fault).__name__ or "Token" in type(fault).__name__
