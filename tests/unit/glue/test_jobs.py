"""A job's arguments: a range that cannot be meant is refused in one line, not answered with nothing done."""

from pathlib import Path

import pytest

from glue.compact import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "2026-11-17", "--to", "2026-11-16"], "--from must be before --to"),
        (["--from", "2026-11-16", "--to", "2026-11-16"], "--from must be before --to"),
        (["--last-hours", "0"], "--last-hours must be at least 1"),
        (["--from", "2026-11-16"], "name --from and --to, or --last-hours"),
        (["--from", "monday", "--to", "2026-11-16"], "Invalid isoformat string: 'monday'"),
        (["--last-hours", "1", "--form", "x"], "unknown: --form x"),
    ],
)
def test_a_wrong_range_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--archive", str(tmp_path), *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_archive_is_a_whole_bucket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--archive", "s3://bucket/events", "--last-hours", "1"])
    assert "not a prefix in it" in capsys.readouterr().err
