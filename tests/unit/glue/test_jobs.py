"""Test that a Glue job rejects an invalid range, an unknown argument, and an archive URL with a prefix."""

from pathlib import Path

import pytest

from glue.compact import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "2026-11-17", "--to", "2026-11-16"], "--from must be before --to"),
        (["--from", "2026-11-16", "--to", "2026-11-16"], "--from must be before --to"),
        (["--last-hours", "0"], "--last-hours must be at least 1"),
        (["--from", "2026-11-16"], "give either --from and --to, or --last-hours"),
        (["--from", "monday", "--to", "2026-11-16"], "Invalid isoformat string: 'monday'"),
        (["--last-hours", "1", "--form", "x"], "unknown arguments: --form x"),
    ],
)
def test_invalid_range_or_unknown_argument_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--archive", str(tmp_path), *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_archive_url_with_a_prefix_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--archive", "s3://bucket/events", "--last-hours", "1"])
    assert "without a prefix" in capsys.readouterr().err
