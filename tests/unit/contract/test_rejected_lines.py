"""Test the archived lines of rejected events, unreadable bodies and quarantined records."""

import json

from contract.events import Reason
from contract.rejected_lines import quarantine_line
from tests.rejects import reject_line, unreadable_line

REASON = Reason("missing_id", "_id", "`_id` is missing.")


def test_rejected_event_is_stored_as_sent() -> None:
    line = reject_line([REASON], b'{"n":1.50}', index=3, event_id=None, app_version="1.2")
    assert line.endswith(b'"index":3,"event_id":null,"event":{"n":1.50},"app_version":"1.2"}')
    assert json.loads(line)["reasons"] == [
        {"code": "missing_id", "field": "_id", "message": "`_id` is missing."}
    ]


def test_body_that_is_not_json_is_stored_as_base64() -> None:
    line = unreadable_line([REASON], b"\xff\n", content_type="application/json", content_encoding=None)
    assert json.loads(line) | {"reasons": []} == {
        "reasons": [],
        "index": 0,
        "body_base64": "/wo=",
        "content_type": "application/json",
        "content_encoding": None,
    }


def test_quarantined_record_is_stored_as_base64_unless_it_is_strict_json() -> None:
    origin = {"stream": "s", "sequence_number": "1"}
    assert json.loads(quarantine_line([REASON], b'{ "a": 1 }', origin))["event"] == {"a": 1}
    assert (
        json.loads(quarantine_line([REASON], b'{"a":1,"a":2}', origin))["record_base64"]
        == "eyJhIjoxLCJhIjoyfQ=="
    )
