"""The errors that calls to AWS raise. Callers branch on their types and on `code`, never on a message."""

from contract.logs import LoggableError


class RetryableError(LoggableError):
    """A call failed but may succeed later. The message contains none of the call's content, so it may be logged."""


class NoResponseError(RetryableError):
    """The service did not respond before the deadline, or the connection could not be made or was lost."""


class CredentialsError(RetryableError):
    """No credentials could be found or renewed."""


class ServiceError(RetryableError):
    """The service returned an error. `code` is the error code, or the HTTP status if the response contains none."""

    def __init__(self, service: str, code: str, status: int) -> None:
        super().__init__(f"{service}: {code}")
        self.code, self.status = code, status


class PermanentError(Exception):
    """The service will never accept this call. `detail`, the service's message, may quote it, so never log `detail`."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class MissingObjectError(PermanentError):
    """The object does not exist, or the role has no permission to find out whether it exists."""
