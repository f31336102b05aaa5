"""How a call to AWS can fail. Callers branch on these types and on `code`, never on a message."""


class RetryableError(Exception):
    """The call did not succeed now and may succeed later.

    The message names the service and the error, never the content of the call, so it may be logged.
    """


class NoResponseError(RetryableError):
    """The service did not answer before the deadline, or no connection could be made."""


class CredentialsError(RetryableError):
    """No credentials could be found or renewed."""


class ServiceError(RetryableError):
    """AWS answered with an error. `code` is the service's own name for it, or the HTTP status."""

    def __init__(self, service: str, code: str, status: int) -> None:
        super().__init__(f"{service}: {code}")
        self.code = code
        self.status = status

    @property
    def is_transient(self) -> bool:
        """Whether the SDKs would send the same request again.

        (AWS SDKs and Tools Reference Guide: "Retry behavior"; 409 is S3's answer while another write of the same key
        is under way. Amazon S3 User Guide: "How to prevent object overwrites with conditional writes".)
        """
        return self.status in TRANSIENT_STATUSES or self.code in TRANSIENT_CODES


class PermanentError(Exception):
    """The service will never accept this call: something in it breaks a rule.

    `detail` is the service's own message. It may quote the content of the call, so it must not be logged.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class MissingObjectError(PermanentError):
    """The object does not exist, or the role may not see whether it does."""


TRANSIENT_STATUSES = frozenset({409, 429, 500, 502, 503, 504})
TRANSIENT_CODES = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)
