"""CloudWatch metrics from canonical log lines, in the embedded metric format.

CloudWatch extracts the metrics from the fields that the member `_aws` names, so no function calls CloudWatch, and the
metrics cannot contradict the log. The stage is the only dimension, because each value of a dimension is billed as a
metric. (Amazon CloudWatch User Guide: "Specification: Embedded metric format".)
"""

import time
from collections.abc import Mapping, Set
from functools import cache
from typing import Literal

from structlog.typing import EventDict, Processor

from contract import logs

NAMESPACE = "Milkrun"

# The metric fields of each canonical line. Fields that a line lacks are omitted.
METRICS: Mapping[str, tuple[str, ...]] = {
    logs.EVENTS_INGESTED: (
        "received",
        "accepted",
        "duplicates",
        "conflicts",
        "rejected",
        "events_per_device",
        "published",
        "queued",
        "lateness_seconds",
        "store_ms",
        "publish_ms",
    ),
    logs.REQUEST_REFUSED: ("refused",),
    logs.RECORDS_REDRIVEN: ("redriven", "returned"),
    logs.RECORDS_SET_ASIDE: ("set_aside",),
    logs.RECORDS_CONSUMED: ("consumed", "set_aside_share", "too_old", "orphan_exits", "visits_changed"),
    logs.PIPE_CHECKED: ("pipe_lag_seconds", "pipe_deaf_seconds", "pipe_pending_files", "pipe_stopped"),
    logs.LOADS_CHECKED: ("failed_loads",),
}
# The metrics of the alarms in serverless/alarms.js, the only ones if METRICS=alarms. Each metric costs $0.30 a month.
ALARMED: Set[str] = {
    "events_per_device",
    "rejected_device_mismatch",
    "set_aside",
    "set_aside_share",
    "pipe_lag_seconds",
    "pipe_deaf_seconds",
    "pipe_stopped",
    "failed_loads",
    "throttled",
}

type Unit = Literal["Count", "Milliseconds", "Seconds", "Percent"]
type Wanted = Literal["all", "alarms"]


@cache
def unit_of(field: str) -> Unit:
    """Return the CloudWatch unit of a field, derived from the suffix of its name."""
    units: dict[str, Unit] = {"_ms": "Milliseconds", "_seconds": "Seconds", "_share": "Percent"}
    return next((unit for ending, unit in units.items() if field.endswith(ending)), "Count")


def with_metrics(stage: str, wanted: Wanted = "all") -> Processor:
    """Return a structlog processor that adds the metrics of `stage` to canonical lines."""

    def processor(_logger: object, _method: str, line: EventDict) -> EventDict:
        # Each code that occurs becomes a metric of its own, such as rejected_missing_id.
        by_code = {f"rejected_{code}": count for code, count in line.get("rejected_by_code", {}).items()}
        counted = [f for f in METRICS.get(line["event"], ()) if isinstance(line.get(f), int | float)]
        fields = [f for f in (*counted, *by_code) if wanted == "all" or f in ALARMED]
        if not fields:
            return line
        directive = {
            "Namespace": NAMESPACE,
            "Dimensions": [["stage"]],
            "Metrics": [{"Name": field, "Unit": unit_of(field)} for field in fields],
        }
        line.update(by_code)
        line["stage"] = stage
        line["_aws"] = {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]}
        return line

    return processor
