"""Test that every kind of difference between a rebuild and the warehouse is reported."""

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glue.archive import Folder
from glue.compare import differences, main, visit_table
from glue.rebuild import VISIT, rows_of
from glue.rebuild import main as rebuild
from tests.unit.glue.sample_archives import HOUR, archived, crossing_line, random_crossings

Rows = list[dict[str, object]]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    archived(tmp_path, map(crossing_line, random_crossings(3)))
    assert (
        rebuild(["--archive", str(tmp_path), "--from", "2026-11-16", "--to", "2026-11-17", "--name", "r"])
        == 0
    )
    table: Rows = rows_of(Folder(tmp_path), "r", "visits").to_pylist()
    assert len(table) > 3
    return table


def test_same_visits_in_a_different_order_are_equal(rows: Rows) -> None:
    assert differences(pa.Table.from_pylist(rows, VISIT), visit_table(reversed(rows))) == []


def test_naive_datetimes_and_decimals_from_the_connector_do_not_count_as_differences(rows: Rows) -> None:
    from_connector = [
        row
        | {"entered_at": row["entered_at"].replace(tzinfo=None)}
        | {"app_dwell_seconds": d if (d := row["app_dwell_seconds"]) is None else Decimal(str(d))}
        for row in rows
    ]
    assert differences(pa.Table.from_pylist(rows, VISIT), visit_table(from_connector)) == []


def test_missing_extra_and_different_visits_are_reported(rows: Rows) -> None:
    lost, kept, changed = rows[0], rows[1:-1], rows[-1]
    ghost = lost | {"entered_event_id": "ghost"}
    wrong = changed | {"exit_missed": not changed["exit_missed"]}
    found = differences(pa.Table.from_pylist(rows, VISIT), visit_table([ghost, *kept, wrong]))
    named = {(each.what, each.visit["entered_event_id"]): dict(each.fields) for each in found}
    assert named == {
        ("missing", lost["entered_event_id"]): {},
        ("extra", "ghost"): {},
        ("different", changed["entered_event_id"]): {
            "exit_missed": (changed["exit_missed"], not changed["exit_missed"])
        },
    }


def test_comparison_exits_with_code_1_if_there_are_differences(
    tmp_path: Path, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    export = tmp_path / "export.parquet"
    later = rows[0] | {"last_seen_at": HOUR + timedelta(days=9)}
    pq.write_table(pa.Table.from_pylist([later, *rows[1:]], VISIT), export)
    command = ["--archive", str(tmp_path), "--name", "r", "--file", str(export)]
    assert main(command) == 1
    printed = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert printed[-2] | {"at": ""} == {
        "event": "visits_compared", "at": "", "name": "r", "rebuilt": len(rows), "warehouse": len(rows),
        "missing": 0, "extra": 0, "different": 1, "unreadable": 0,
    }  # fmt: skip
    [listed] = (tmp_path / "rebuilt/r/differences.ndjson").read_text().splitlines()
    assert json.loads(listed)["entered_event_id"] == rows[0]["entered_event_id"]
    pq.write_table(pa.Table.from_pylist(rows, VISIT), export)
    assert main(command) == 0


def test_comparison_exits_with_code_2_if_no_finished_rebuild_has_the_given_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--archive", str(tmp_path), "--name", "never", "--file", "x"]) == 2
    assert "No finished rebuild 'never' found" in capsys.readouterr().err


def test_visits_outside_the_rebuilt_range_in_an_export_are_not_reported(tmp_path: Path, rows: Rows) -> None:
    export = tmp_path / "export.parquet"
    others = [
        rows[0] | {"entered_event_id": "before", "entered_at": HOUR - timedelta(days=1)},
        rows[0] | {"entered_event_id": "at the end", "entered_at": HOUR.replace(hour=0) + timedelta(days=1)},
    ]
    table = pa.Table.from_pylist([*others, *rows], VISIT)
    pq.write_table(table.rename_columns([name.upper() for name in VISIT.names]), export)  # like Snowflake
    assert main(["--archive", str(tmp_path), "--name", "r", "--file", str(export)]) == 0


@pytest.mark.parametrize("problem", ["missing", "not Parquet", "without a column"])
def test_comparison_exits_with_code_2_if_the_export_cannot_be_read(
    tmp_path: Path, rows: Rows, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    export = tmp_path / "export.parquet"
    if problem == "not Parquet":
        export.write_text("device_id,geofence_tag\n")
    if problem == "without a column":
        pq.write_table(pa.Table.from_pylist(rows, VISIT).drop_columns(["exit_missed"]), export)
    capsys.readouterr()
    assert main(["--archive", str(tmp_path), "--name", "r", "--file", str(export)]) == 2
    said = capsys.readouterr()
    assert (said.out, str(export) in said.err) == ("", True)


def test_comparison_exits_with_code_2_if_the_archive_url_has_a_prefix() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--archive", "s3://bucket/events", "--name", "r"])
    assert ended.value.code == 2


def test_comparison_reports_the_number_of_objects_that_the_rebuild_could_not_read(
    tmp_path: Path, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    """Visits from unreadable objects are listed as extra, although the warehouse is right."""
    export = tmp_path / "export.parquet"
    pq.write_table(pa.Table.from_pylist(rows, VISIT), export)
    objects = list((tmp_path / "events").rglob("*.gz"))
    for path in objects:
        path.write_bytes(b"broken")
    range_ = ["--from", "2026-11-16", "--to", "2026-11-17"]
    assert rebuild(["--archive", str(tmp_path), *range_, "--name", "r"]) == 1
    capsys.readouterr()
    assert main(["--archive", str(tmp_path), "--name", "r", "--file", str(export)]) == 1
    compared = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (compared["extra"], compared["unreadable"]) == (len(rows), len(objects))
