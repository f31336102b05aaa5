"""Test that the command `milkrun` imports few modules for its help, lists and completes its subcommands, suggests
corrections of misspelt subcommands, and accepts earlier names. Also test the script `milkrun` and some make targets.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
from inspect import cleandoc
from pathlib import Path

import pytest
import typer

from cli import command_errors
from ops.stage_outputs import ROOT
from tools.milkrun import ENTRIES, app, complain, loaded

# Listing the commands needs none of these. Importing one takes between 0.1 and 2 seconds.
HEAVY = {
    "boto3",
    "botocore",
    "snowflake",
    "pandas",
    "numpy",
    "pyarrow",
    "duckdb",
    "sqlglot",
    "matplotlib",
    "uvicorn",
}
OURS = {"contract", "aws", "cli", "handler", "consumer", "kcl", "snowpipe", "glue", "ops", "tools"}


def run(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments in this clone, as in a wide terminal; return the completed process."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_few_modules_and_no_heavy_library(argument: str) -> None:
    code = f"import sys; sys.argv = ['milkrun', {argument!r}]\nfrom tools.milkrun import main\nmain()\n"
    listed = run("-c", code + "print('MODULES', *sys.modules)")
    modules = listed.stdout.split("MODULES ", 1)[1].split()
    assert HEAVY & {name.split(".")[0] for name in modules} == set()
    assert len([name for name in modules if name.split(".")[0] in OURS]) <= 10
    assert len(modules) < 800


def test_help_lists_the_commands_by_group_and_omits_their_earlier_names() -> None:
    shown = run("-m", "tools.milkrun", "--help").stdout
    first_words = [line.split()[1] for line in shown.splitlines() if len(line.split()) > 2]
    for entry in ENTRIES:
        assert (entry.name in first_words) is not entry.hidden
    assert shown.index("Local stack") < shown.index("Operate a stage") < shown.index("Warehouse")


@pytest.mark.parametrize("entry", [e for e in ENTRIES if not e.hidden], ids=lambda entry: entry.name)
def test_command_list_shows_the_first_paragraph_of_each_commands_help(entry) -> None:
    own_help = cleandoc(loaded().commands[entry.name].help or "")
    assert " ".join(own_help.split("\n\n")[0].split()) == entry.help


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("reconsile", "reconcile"), ("trase", "trace"), ("quarentine", "quarantine"), ("dmeo", "demo")],
)
def test_misspelt_command_is_refused_with_a_suggestion_of_the_correct_one(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_errors.run(app, [typed], obj={}, environment={}, tell=complain) == 2
    assert capsys.readouterr().err.startswith(f"No such command '{typed}'. Did you mean '{meant}'")


def test_misspelt_warehouse_command_is_refused_with_a_suggestion_of_the_correct_one() -> None:
    ended = run("-m", "tools.milkrun", "warehouse", "aply")
    assert (ended.returncode, ended.stderr) == (2, "No such command 'aply'. Did you mean 'apply'?\n")


# A write to a closed pipe raises BrokenPipeError, which rich replaces with SystemExit(1).
@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), SystemExit(1)])
def test_closed_pipe_ends_a_command_with_code_141_instead_of_1(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = typer.Typer(pretty_exceptions_enable=False)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # typer replaces stdout and stderr after a broken pipe
    monkeypatch.setattr(sys, "stderr", sys.stderr)

    @command.command()
    def head() -> None:
        raise error

    assert command_errors.run(command, [], obj={}, environment={}, tell=complain) == 141


@pytest.mark.parametrize(
    ("spelling", "shown"),
    [
        ("ops where --help", "every step on its"),
        ("snowpipe status --help", "--pipe"),
        ("tools.milkrun warehouse status --help", "--pipe"),
        ("tools.stack status --help", "--json"),
    ],
)
def test_command_runs_from_its_current_and_its_earlier_module(spelling: str, shown: str) -> None:
    ended = run("-m", *spelling.split())
    assert (ended.returncode, ended.stderr) == (0, "")
    assert shown in ended.stdout


@pytest.mark.parametrize(
    ("earlier", "shown"),
    [("where", "every step on its"), ("set-aside", "quarantined records"), ("top", "--stage")],
)
def test_earlier_name_of_a_command_works(
    earlier: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_errors.run(app, [earlier, "--help"], obj={}, environment={}, tell=complain) == 0
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("ops reconcile", 2),
        ("tools.milkrun status", 2),
        ("tools.stack status", 1),
    ],
)
def test_command_without_a_stack_fails_without_a_traceback(command: str, code: int, tmp_path: Path) -> None:
    nowhere = {"MILKRUN_LOCAL": str(tmp_path / "none"), "MILKRUN_PORT": "29000"}
    ended = run("-m", *command.split(), environment=nowhere)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr


def complete(words: str) -> list[str]:
    """Return the completions that bash offers for a command line."""
    code = "import sys; sys.argv = ['milkrun']\nfrom tools.milkrun import main\nmain()"
    environment = {
        "_MILKRUN_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    return run("-c", code, environment=environment).stdout.split()


@pytest.mark.slow
def test_shell_completes_commands_options_and_the_subcommands_of_warehouse() -> None:
    assert complete("milkrun rec") == ["reconcile"]
    every = set(complete("milkrun "))
    assert {"trace", "quarantine"} <= every
    assert not {"where", "set-aside"} & every
    assert "--repair" in complete("milkrun reconcile --re")
    assert complete("milkrun warehouse boot") == ["bootstrap"]


def test_make_help_shows_at_most_twenty_targets_and_help_all_shows_all() -> None:
    def targets(help_target: str) -> list[str]:
        shown = subprocess.run(
            ["make", "-s", help_target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("  make ")]

    daily, every = targets("help"), targets("help-all")
    assert {"demo", "up", "down", "test", "check", "deploy", "help-all"} <= set(daily) <= set(every)
    assert len(daily) <= 20
    defined = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(every) == defined - {"check-collection"}, "check-collection is a part of `make check`"


@pytest.mark.parametrize(("given", "asked"), [([], "smoke"), (["STAGE=prod"], "smoke --stage prod")])
def test_make_smoke_passes_its_stage_to_milkrun_smoke(given: list[str], asked: str) -> None:
    planned = subprocess.run(
        ["make", "-n", "smoke", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert planned.stdout.splitlines()[-1].rstrip().endswith(f"-m tools.milkrun {asked}")


def test_make_conformance_passes_the_whole_url_to_the_kit(tmp_path: Path) -> None:
    """The shell must not interpret the special characters in the URL."""
    url = "http://127.0.0.1:9/hook?token=a&app=$b"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/given\n')
    program.chmod(0o755)
    target = url.replace("$", "$$")  # make replaces $$ with $
    options = [f"PY={program}", f"TARGET={target}", "--old-file=setup"]
    subprocess.run(["make", "conformance", *options], cwd=ROOT, check=True, env={"PATH": os.environ["PATH"]})
    assert (tmp_path / "given").read_text().splitlines() == ["-m", "milkrun_conformance", "run", url]


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("status", {"main"}),
        ("preflight", {"main", "node"}),
        ("forget", {"main", "dbt"}),
        ("verify", {"main", "dbt"}),
    ],
)
def test_milkrun_script_creates_the_environments_that_a_command_needs(
    tmp_path: Path, command: str, needed: set[str]
) -> None:
    """Without dbt, `forget` would fail after it has deleted the rows of RAW; preflight runs osls, which needs Node."""
    shutil.copy(ROOT / "milkrun", tmp_path)
    for name, does in {
        "tools/setup.sh": f'echo "$@" >{tmp_path}/asked',
        ".venv/bin/milkrun": "exit 0",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run([tmp_path / "milkrun", command], check=True)
    assert set((tmp_path / "asked").read_text().split()) == needed
