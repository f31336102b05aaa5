"""Test that each log line is one JSON object with the ids of its invocation."""

import json

import pytest
import structlog

from contract import logs


@pytest.fixture
def _fresh() -> None:
    structlog.reset_defaults()


@pytest.mark.usefixtures("_fresh")
def test_log_line_is_one_json_object_with_the_ids_of_its_invocation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO")
    log = structlog.get_logger()
    logs.bind(request_id="r-1", shard_id="s-1")
    log.info(logs.EVENTS_INGESTED, accepted=2, note="two\nlines")
    logs.bind(request_id="r-2")
    log.debug("below_the_level")
    log.info(logs.EVENTS_INGESTED, accepted=3)

    first, second = map(json.loads, capsys.readouterr().out.splitlines())

    assert (first["event"], first["request_id"], first["accepted"], first["level"]) == (
        "events_ingested", "r-1", 2, "info",
    )  # fmt: skip
    assert first["shard_id"] == "s-1"
    assert (second["request_id"], second["accepted"]) == ("r-2", 3)
    assert "shard_id" not in second, "the line contains an id of the previous invocation"


def test_each_exception_in_a_cycle_of_causes_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = KeyError("a payload"), ValueError("a payload")
    first.__cause__, second.__cause__ = second, first
    logs.configure()
    structlog.get_logger().error("failed", exc_info=first)
    assert json.loads(capsys.readouterr().out)["exception"] == "KeyError\nValueError\n"
