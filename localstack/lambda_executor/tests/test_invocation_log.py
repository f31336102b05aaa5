"""Test the log of an invocation in Lambda's JSON format."""

import json
from dataclasses import replace

from localstack_lambda_executor.invocation_log import InvocationLog


def log_of(**changes: object) -> object:
    plain = InvocationLog(
        request_id="r-1",
        version="$LATEST",
        earlier_output="",
        output='{"event": "events_ingested"}\n',
        fault=None,
        duration_ms=101.514,
        init_ms=116.67,
        memory_mb=512,
        used_mb=33,
        status=None,
        error_type=None,
    )
    return replace(plain, **changes)


def test_system_log_level_info_adds_start_and_report_lines():
    start, line, report = map(json.loads, log_of().as_json("INFO").splitlines())
    assert (start["type"], start["record"]) == ("platform.start", {"requestId": "r-1", "version": "$LATEST"})
    assert line == {"event": "events_ingested"}
    assert report["type"] == "platform.report"
    assert report["record"] == {
        "requestId": "r-1",
        "metrics": {
            "durationMs": 101.514,
            "billedDurationMs": 219,
            "memorySizeMB": 512,
            "maxMemoryUsedMB": 33,
            "initDurationMs": 116.67,
        },
        "status": "success",
    }


def test_system_log_level_warn_adds_no_line_if_the_invocation_succeeds():
    assert log_of().as_json("WARN") == '{"event": "events_ingested"}\n'


def test_system_log_level_warn_adds_fault_and_report_lines_if_the_invocation_fails():
    failed = log_of(status="error", error_type="Runtime.ExitError", fault="RequestId: r-1 Error: gone")
    line, fault, report = failed.as_json("WARN").splitlines()
    assert line == '{"event": "events_ingested"}'
    assert fault == "RequestId: r-1 Error: gone"
    assert json.loads(report)["record"]["status"] == "error"
    assert json.loads(report)["record"]["errorType"] == "Runtime.ExitError"
