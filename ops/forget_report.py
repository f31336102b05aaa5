"""The report of `milkrun forget`: the data that a run has deleted, and the steps that are still necessary."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cli.counts import count
from consumer.visits import Pair
from contract.event_limits import MAX_AGE
from glue import forget as archive
from glue.person import Followed
from ops import forget_remaining, forget_visits, terminal

# The event source mapping discards records that are older than this. The consumer may still process younger ones.
MAX_RECORD_AGE = timedelta(hours=6)

type Plan = dict[str, Any]
"""The parsed content of a plan that glue/forget.py stored."""


@dataclass
class Result:
    """The results of one run of `milkrun forget`."""

    plan: Plan = field(default_factory=lambda: {"objects": [], "unreadable": []})
    unfinished: list[Plan] = field(default_factory=list)  # plans whose marts are not rebuilt
    not_loaded: list[str] = field(default_factory=list)
    not_consumed: int = 0
    visits: forget_visits.Forgotten = field(default_factory=forget_visits.Forgotten)
    raw_rows: int = 0
    result_rows: int = 0
    sqlite_rows: int = 0
    old_versions: int = 0
    objects_deleted: int = 0
    stored_meanwhile: int = 0
    claim_checks: int = 0
    claims_in_flight: bool = False
    needs_marts: bool = False
    marts_built: bool = False
    tables_left: list[str] = field(default_factory=list)
    remaining: list[forget_remaining.Remaining] = field(default_factory=list)


def todo(result: Result) -> Iterator[str]:
    """Yield the steps that are still necessary until all data is deleted."""
    if result.not_loaded:
        yield (
            "The events are not deleted yet, because Snowpipe has not loaded the rewritten objects."
            " Run the command again."
        )
        return
    if result.not_consumed:
        yield (
            f"The events are not deleted yet, because the consumer may still process {result.not_consumed} of them."
            " Run the command again later: an event no longer prevents the deletion once it is processed, or"
            f" {MAX_RECORD_AGE.total_seconds() / 3600:.0f} hours after it was received."
        )
        return
    if result.stored_meanwhile:
        yield (
            "Run the command again. Objects with data of the person that a phone or another run of `forget` stored"
            f" during this run: {result.stored_meanwhile}."
        )
    if result.plan["unreadable"]:
        yield "Check the unreadable objects by hand, because they may contain the person's data."
    if result.needs_marts and not result.marts_built:
        yield "milkrun warehouse dbt build --full-refresh   # staging and marts still contain the old rows"
    if result.tables_left:
        yield f"Drop or clean these tables, which dbt does not build: {', '.join(result.tables_left)}."


def advice(found_by: Followed, result: Result, option: str) -> Iterator[str]:
    if result.claims_in_flight:
        yield (
            f"milkrun reconcile --repair{option}   # claim checks in flight may refer to a deleted object that"
            " also contained other people's events"
        )
    # The consumer skips events that are older than MAX_AGE, and `replay` refuses a range that contains them.
    since = f"--from '{MAX_AGE.days - 1} days ago'"
    for device in sorted({pair.device_id for pair in result.visits.replay}):
        yield (
            f"milkrun replay {since} --device {terminal.shell_word(device)}{option}"
            "   # rebuild the visits of the device's other users, which were deleted too"
        )
    for device, others in found_by.shared.items():
        yield (
            f"milkrun forget --device {terminal.shell_word(device)}{option}   # only if all data of the device is to be"
            f" deleted: {count(others, 'other user')} used it, and its events without a user were kept"
        )


def report(user: str | None, found_by: Followed, result: Result) -> dict[str, object]:
    pairs = result.plan["objects"]
    return {
        "user": user,
        "devices": sorted(found_by.subject.devices | found_by.subject.own_devices),
        "other_ids": sorted(found_by.subject.users - {user}),
        "shared_devices": found_by.shared,
        "unclear_ids": sorted(found_by.unclear),
        "mentioned_by": sorted(found_by.mentioned_by),
        "plan": archive.plan_key(result.plan["request"]) if pairs else None,
        "objects": len(pairs),
        "lines": sum(pair["lines_before"] - pair["lines_after"] for pair in pairs),
        "items_deleted": result.visits.items,
        "pairs_rewritten": result.visits.pairs,
        "raw_rows_deleted": result.raw_rows,
        "result_rows_deleted": result.result_rows,
        "sqlite_rows_deleted": result.sqlite_rows,
        "old_versions_deleted": result.old_versions,
        "claim_checks_changed": result.claim_checks,
        "objects_deleted": result.objects_deleted,
        "objects_stored_meanwhile": result.stored_meanwhile,
        "marts_built": result.marts_built,
        "unreadable": [each["key"] for each in result.plan["unreadable"]],
        "not_loaded_yet": result.not_loaded,
        "not_consumed_yet": result.not_consumed,
        "visits_to_make_again": [_pair(pair) for pair in result.visits.replay],
        "tables_left": result.tables_left,
    }


def _pair(pair: Pair) -> dict[str, str]:
    return {"device_id": pair.device_id, "tag": pair.fence.tag, "external_id": pair.fence.external_id}
