"""Test that the console classifies the failure of a source correctly, and that failure messages contain no
secrets.
"""

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError

from cli.deadline import NoAnswerError
from cli.refusal import Refusal
from tools.console.source_states import Sources, cause_of


def test_failure_messages_contain_no_secrets() -> None:
    sources = Sources(lambda: "now", ("s3cr3t-key",))
    said = sources.without_secrets("milkrun-local-visits: denied for s3cr3t-key")
    assert said == "milkrun-local-visits: denied for ***"


def expired() -> ClientError:
    return ClientError({"Error": {"Code": "ExpiredTokenException", "Message": "expired"}}, "GetObject")


def unreachable_s3() -> Refusal:
    fault = Refusal("could not list s3://archive/events/")
    fault.__cause__ = EndpointConnectionError(endpoint_url="http://127.0.0.1:4566/")
    return fault


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        pytest.param(
            EndpointConnectionError(endpoint_url="http://127.0.0.1:1/"), "unreachable", id="closed port"
        ),
        pytest.param(ConnectTimeoutError(endpoint_url="http://10.0.0.1/"), "unreachable", id="no answer"),
        pytest.param(ConnectionRefusedError(111, "refused"), "unreachable", id="a socket"),
        pytest.param(NoAnswerError("no answer from Snowflake within 6 s"), "unreachable", id="Snowflake"),
        pytest.param(unreachable_s3(), "unreachable", id="the archive cannot be listed"),
        pytest.param(expired(), "credentials", id="an expired token"),
        pytest.param(ValueError("odd"), "other", id="a fault of ours"),
    ],
)
def test_cause_of_a_source_failure_is_classified(fault: Exception, cause: str) -> None:
    assert cause_of(fault) == cause


def test_recovered_source_no_longer_has_a_failure_cause() -> None:
    sources = Sources(lambda: "now")
    sources.say("archive", "down", "no connection", "unreachable")
    assert next(row for row in sources.rows() if row["name"] == "archive")["cause"] == "unreachable"
    sources.say("archive", "ok")
    assert next(row for row in sources.rows() if row["name"] == "archive")["cause"] is None
