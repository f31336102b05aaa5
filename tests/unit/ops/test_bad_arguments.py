"""Test that each command rejects invalid arguments with a one-line error and exit code 2."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ops import terminal
from snowpipe import cli as warehouse
from tools.milkrun import app as operations
from tools.milkrun import loaded

TIMES = ("", "the day of the cow", "2026-13-40", "0001-01-01T00:00+14:00", "9999-12-31T23:00-14:00")
NUMBERS = ("", "-1", "many", "nan", "inf", "-inf", "1e400", "0x10")
IDS = ("", " ", "\udcff")
STAGES = ("", "no such stage", "../prod", "prod\n", "\udcff")
FILES = ("missing.json", "folder", "missing/file", "empty/below-a-file", "circle", "long-" * 60, "")
OUTPUTS = (*FILES, "empty", "array.json", "binary")
PIPES = ("", "EVENTS ", "no_such_pipe")

BAD = {
    "--stage": STAGES,
    "--seed": ("", "many", "1.5", "nan"),
    "--from": TIMES,
    "--to": TIMES,
    "--since": TIMES,
    "--begin": TIMES,
    "--day": ("", "the day of the cow", "2026-13-40", "0001-01-01", "9999-12-31", "\udcff"),
    "--device": IDS,
    "--fence": ("farm", *IDS),
    "--user": IDS,
    "--tests": ("", " "),
    "--token-command": ("", " "),
    "--type": IDS,
    "--set-aside": IDS,
    "--run": ("", "zz", "123", "0123456789"),
    "--file": FILES,
    "--events": FILES,
    "--fences": FILES,
    "--outputs": OUTPUTS,
    "--pipe": PIPES,
    "--prefix": ("\udcff",),
    "--to-file": ("folder", "missing/file", "empty/below-a-file", "circle", ""),
    "--plots": ("missing", "empty", "circle", "long-" * 60, "", "\udcff"),
    "--tiles": ("", "javascript:alert(1)", "\udcff"),
    "--by": ("colour", "device,colour", "\udcff"),
    "--set": ("a", "=1", "a={", "a..b=1", "\udcff"),
    "--rename": ("a", "a=", "=a", "\udcff"),
    "--delete": ("", ".", "a..b", "\udcff"),
    "--map": ("a", "a=b", "=a:b", "\udcff"),
    "what": IDS,
    "device": IDS,
    "names": ("no_such_log", "\udcff"),
    "--only": ("", "all", "kinesis"),
    "file": (*FILES, "\udcff"),
    "--instead-of": ("elsewhere/a.json", "set-aside/a", "/", "\udcff"),
    "sql": ("", "  \n", ";", "-- a comment", "/* a comment */ ;", "\udcff"),
}
OF_RELOAD = ("", "\udcff")  # `reload` takes an object key, but `repair` a file
# For `load`, --from is a bucket or a folder, and --to is an SQLite URL. For other commands, both are times.
OF_LOAD = {
    "--from": ("", "missing", "empty", "s3://", "s3:///events", "http://bucket"),
    "--to": ("", "file.db", "sqlite://", "sqlite:///missing/file.db", "sqlite:///folder"),
}
GOOD = {
    "--user": "ann",
    "--from": "2 hours ago",
    "what": "an-event",
    "file": "events/a.ndjson.gz",
    "sql": "SELECT 1",
}
ALSO = {
    ("replay", "--to"): ["--from", "1 hour ago"],
    ("replay", "--type"): ["--from", "1 hour ago"],
    ("replay", "--device"): ["--from", "1 hour ago"],
    ("replay", "--rate"): ["--from", "1 hour ago"],
    ("replay", "--stage"): ["--from", "1 hour ago"],
    ("replay", "--to-file"): ["--set-aside", "no_device"],
    ("visits", "--stage"): ["--device", "d"],
    ("visits", "--since"): ["--device", "d"],
}
# Flags, typer's own options, and options that accept any value. The arguments of `dbt` are checked by dbt itself.
NOT_TRIED = {"--code", "--app-version", "--help", "--json", "--install-completion", "--show-completion"}


MILKRUN = loaded()
GROUPS = {
    "milkrun": MILKRUN,
    "snowpipe": typer.main.get_command(warehouse.app),
    **{name: MILKRUN.commands[name] for name in ("rejects", "quarantine", "redrive")},
}


def commands() -> Iterator[tuple[str, str, str, str]]:
    """Yield (program, command, parameter, value) for each invalid value that the test tries."""
    for program, group in GROUPS.items():
        for name, command in sorted(group.commands.items()):
            for parameter in command.params:
                option = parameter.opts[0]
                if option in NOT_TRIED or getattr(parameter, "is_flag", False):
                    continue
                values = OF_LOAD.get(option) if name == "load" else None
                if (name, option) == ("reload", "file"):
                    values = OF_RELOAD
                for value in values or BAD.get(option, NUMBERS):
                    if (name, option) == ("send", "--rate") and value in ("inf", "1e400"):
                        continue  # a valid value that means no limit
                    yield program, name, option, value


def arguments(program: str, name: str, option: str, value: str) -> list[str]:
    given = [*ALSO.get((name, option), [])]
    for parameter in GROUPS[program].commands[name].params:
        wanted = parameter.opts[0]
        if parameter.required and wanted != option:
            filled = "sqlite:///x.db" if (name, wanted) == ("load", "--to") else GOOD[wanted]
            given += [wanted, filled] if wanted.startswith("--") else [filled]
    return [name, *given, *([f"{option}={value}"] if option.startswith("--") else ["--", value])]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a new folder with the unsuitable files that BAD names, such as a binary file; return its path."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "array.json").write_text("[1]")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(program: str, given: list[str], folder: Path) -> int:
    environment = {"MILKRUN_LOCAL": str(folder / "no-stack"), "PATH": "/usr/bin:/bin"}
    if program not in ("milkrun", "snowpipe"):
        given = [program, *given]
    if program != "snowpipe":
        return terminal.run(operations, environment, given)
    return warehouse.main(given, environment)


@pytest.mark.parametrize(("program", "name", "option"), sorted({found[:3] for found in commands()}))
def test_invalid_argument_is_refused_with_a_one_line_error(
    program: str, name: str, option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in [found[3] for found in commands() if found[:3] == (program, name, option)]:
        given = arguments(program, name, option, value)
        code = run(program, given, folder)
        said = capsys.readouterr()
        assert (code, said.out, said.err.count("\n")) == (2, "", 1), (given, said)
        assert "unexpected" not in said.err, (given, said.err)
        assert "outputs.json" not in said.err or option == "--outputs", (given, said.err)
