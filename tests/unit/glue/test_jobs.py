"""Test that a Glue job rejects an invalid range, an unknown argument, and an archive that it cannot use."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from glue import publish
from glue.compact import main
from glue.jobs import exit_code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "2026-11-17", "--to", "2026-11-16"], "--from must be before --to"),
        (["--from", "2026-11-16", "--to", "2026-11-16"], "--from must be before --to"),
        (["--last-hours", "0"], "argument --last-hours: '0': give a whole number of at least 1"),
        (["--from", "2026-11-16"], "give either --from and --to, or --last-hours"),
        (["--from", "monday", "--to", "2026-11-16"], "Invalid isoformat string: 'monday'"),
        (["--last-hours", "100000000"], "date value out of range"),
        (["--last-hours", "1", "--full-bytes", "0"], "argument --full-bytes: '0': give a whole number of"),
        (["--last-hours", "1", "--form", "x"], "unknown arguments: --form x"),
    ],
)
def test_invalid_or_unknown_argument_is_rejected(
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


def test_bucket_name_without_the_s3_scheme_is_rejected_and_not_read_as_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for job, more in ((main, ["--last-hours", "1"]), (publish.main, [])):
        with pytest.raises(SystemExit) as ended:
            job(["--archive", "milkrun-prod", *more])
        assert ended.value.code == 2
        assert "milkrun-prod is not a folder; write a bucket as s3://BUCKET" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_publish_rejects_an_archive_url_with_a_prefix_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        publish.main(["--archive", "s3://bucket/prefix"])
    assert ended.value.code == 2
    assert "without a prefix" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "NoSuchBucket", "Message": "no bucket"}}, "ListObjectsV2"),
        NoCredentialsError(),
        PermissionError("no permission"),
    ],
)
def test_job_that_cannot_use_the_archive_exits_with_code_2_and_one_line(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """Exit code 1 means that objects could not be read, or that visits differ."""

    def job(_: Sequence[str]) -> int:
        raise error

    assert exit_code(job) == 2
    assert capsys.readouterr().err == f"The job could not be completed: {type(error).__name__}: {error}\n"


def test_bug_in_a_job_is_not_reported_as_an_unusable_archive() -> None:
    def job(_: Sequence[str]) -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        exit_code(job)
