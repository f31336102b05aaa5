"""Run the tests of dbt-snowflake and snowflake-sqlalchemy against the local Snowflake, and publish the results.

`python localstack/snowflake/outside/run.py [dbt|sqlalchemy] [test file …]` downloads the source distributions, and runs
each test file in the environment `.venvs/outside` against a new local Snowflake. A run of both suites then writes
`outside.md`. A test file that already has results for the current source code of local_snowflake is not run again, so
an interrupted run can be resumed. A test passes, is refused (the local Snowflake named an unsupported feature), fails
after a refusal (with another error, which the refusal may have caused), does not apply (`not_applicable.tsv` gives the
reason), is skipped by the suite itself, or fails. The exit code is 1 if a test fails without a refusal.
"""

import csv
import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local_snowflake.testing import LocalProcess

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ENVIRONMENT = ROOT / ".venvs/outside"
CACHE = ROOT / ".venvs/outside-sources"
RESULTS = ROOT / ".venvs/outside-results"
PAGE = HERE.parent / "outside.md"
NO_AWS = "http://127.0.0.1:9"
REFUSAL = re.compile(r"Not supported by the local Snowflake: ([^\n]*)")
ROLES = ("DBT_TEST_ROLE_1", "DBT_TEST_ROLE_2", "DBT_TEST_ROLE_3")
SETUP = (
    *(f"CREATE DATABASE {name}" for name in ("SUITE", "SUITE_ALT", "SUITE_QUOTED")),
    *(f"CREATE WAREHOUSE {name}" for name in ("SUITE_WH", "SUITE_ALT_WH", "DBT_TESTING", "DBT_TESTING_ALT")),
    *(f"CREATE ROLE {name}" for name in ROLES),
)


@dataclass(frozen=True)
class Suite:
    name: str
    package: str
    version: str
    tests: str
    """The folder of the test files within the source distribution."""
    left_out: tuple[str, ...]
    """Folders within `tests` that are not run, because they contain another package's tests."""
    variables: dict[str, str]
    """Environment variables that tell the suite where its Snowflake is; `{port}` stands for the server's port."""


SUITES = (
    Suite(
        "dbt",
        "dbt_snowflake",
        "1.12.4",
        "tests/functional",
        (),
        {
            "SNOWFLAKE_TEST_ACCOUNT": "fakesnow",
            "SNOWFLAKE_TEST_USER": "any",
            "SNOWFLAKE_TEST_PASSWORD": "any",
            "SNOWFLAKE_TEST_DATABASE": "SUITE",
            "SNOWFLAKE_TEST_ALT_DATABASE": "SUITE_ALT",
            "SNOWFLAKE_TEST_QUOTED_DATABASE": "SUITE_QUOTED",
            "SNOWFLAKE_TEST_WAREHOUSE": "SUITE_WH",
            "SNOWFLAKE_TEST_ALT_WAREHOUSE": "SUITE_ALT_WH",
            "SNOWFLAKE_TEST_HOST": "127.0.0.1",
            "SNOWFLAKE_TEST_PORT": "{port}",
            "SNOWFLAKE_TEST_PROTOCOL": "http",
            **{f"DBT_TEST_USER_{number}": role for number, role in enumerate(ROLES, 1)},
        },
    ),
    Suite(
        "sqlalchemy",
        "snowflake_sqlalchemy",
        "1.11.1",
        "tests",
        ("tests/sqlalchemy_test_suite", "tests/alembic_integration"),
        {
            "SNOWFLAKE_ACCOUNT": "fakesnow",
            "SNOWFLAKE_USER": "any",
            "SNOWFLAKE_PASSWORD": "any",
            "SNOWFLAKE_DATABASE": "SUITE",
            "SNOWFLAKE_HOST": "127.0.0.1",
            "SNOWFLAKE_PORT": "{port}",
            "SNOWFLAKE_PROTOCOL": "http",
            "SNOWFLAKE_WAREHOUSE": "SUITE_WH",
            "SNOWFLAKE_ROLE": "ACCOUNTADMIN",
        },
    ),
)


def source_of(suite: Suite) -> Path:
    folder = CACHE / f"{suite.package}-{suite.version}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "-d", str(CACHE), f"{suite.package}=={suite.version}"], check=True)
        with tarfile.open(CACHE / f"{folder.name}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
    return folder


def files_of(suite: Suite) -> list[str]:
    source = source_of(suite)
    found = sorted(str(file.relative_to(source)) for file in (source / suite.tests).rglob("test_*.py"))
    return [file for file in found if not file.startswith(suite.left_out)]


def run(suite: Suite, file: str, results: Path) -> None:
    """Run one test file and write its results. If pytest could not run the file, a failure is added."""
    unfinished = results.with_suffix(".part")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_text("")
    with tempfile.TemporaryDirectory() as folder:
        server = LocalProcess(Path(folder) / "snowflake", NO_AWS).start()
        try:
            with server.connect() as connection:
                for statement in SETUP:
                    connection.cursor().execute(statement)
            code = pytest_of(suite, file, server.port, unfinished)
        finally:
            server.stop()
    if code not in PYTEST_RAN:
        entry = {"test": file, "outcome": "failed", "text": f"pytest ended with code {code}"}
        unfinished.write_text(unfinished.read_text() + json.dumps(entry, allow_nan=False) + "\n")
    unfinished.rename(results)


PYTEST_RAN = {0, 1, 5}
"""The exit codes with which pytest reports that all tests passed, some tests failed, or no tests were found."""


def pytest_of(suite: Suite, file: str, port: int, results: Path) -> int:
    names = ("PATH", "HOME", "TMPDIR", "LANG")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {name: value.format(port=port) for name, value in suite.variables.items()}
    environment |= {
        "PYTHONPATH": str(HERE),
        "OUTSIDE_RESULTS": str(results),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "0",
    }
    pytest = [str(ENVIRONMENT / "bin/python"), "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider"]
    wanted = [*pytest, "-q", "-n", "0", "--timeout", "300", "--tb", "short", file]
    return subprocess.run(
        wanted, cwd=source_of(suite), env=environment, stdout=sys.stderr, check=False
    ).returncode


def results_folder() -> Path:
    """Return the folder for results of the current source code of local_snowflake."""
    digest = hashlib.sha256()
    for file in sorted((HERE.parent / "src/local_snowflake").glob("*.*")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return RESULTS / digest.hexdigest()[:12]


@dataclass(frozen=True)
class Outcome:
    test: str
    kind: str
    """One of KINDS."""
    reason: str


KINDS = ("passed", "refused", "failed after a refusal", "not applicable", "skipped", "failed")
DBT_FAILED = "dbt exit state did not match expected"  # dbt writes the refusal only to its log


def outcomes(results: Path, reasons: list[tuple[str, str]]) -> Iterator[Outcome]:
    for line in results.read_text().splitlines():
        entry = json.loads(line)
        test, outcome, text = entry["test"], entry["outcome"], entry["text"]
        refusal = REFUSAL.search(text)
        listed = next((reason for pattern, reason in reasons if fnmatch.fnmatchcase(test, pattern)), None)
        if outcome != "failed":
            yield Outcome(test, outcome, "")
        elif listed is not None:
            yield Outcome(test, "not applicable", listed)
        elif refusal and (REFUSAL.search(error := entry.get("error", text)) or DBT_FAILED in error):
            yield Outcome(test, "refused", named(refusal[1]))
        elif refusal:
            yield Outcome(test, KINDS[2], f"{named(refusal[1])}; then {last_line(error)}")
        else:
            yield Outcome(test, "failed", last_line(text))


def named(refusal: str) -> str:
    """Return what was refused: the shape of an unverified function, or else the message without names that differ
    between runs.
    """
    before, cut, _ = refusal.partition(" is not among the verified functions")
    if cut:
        return before.rpartition(": ")[2]
    known = re.sub(r" \(.*", "", refusal.strip()) if refusal.startswith("the statement ") else refusal.strip()
    return shortened(re.sub(r"'[^']*'|\"[^\"]*\"", "…", known), 100)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def last_line(text: str) -> str:
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    said = (
        " ".join(errors[:2]) if errors and errors[0].endswith(":") else (errors or [text.strip()[-200:]])[0]
    )
    return shortened(said.removeprefix("snowflake.connector.errors."), 200)


def reasons_of(suite: str) -> list[tuple[str, str]]:
    """Return the reasons why tests of a suite do not apply, each with the pattern of the tests' names."""
    with (HERE / "not_applicable.tsv").open(newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(pattern.replace("[", "[[]"), reason) for name, pattern, reason in rows[1:] if name == suite]


def page(found: dict[str, list[Outcome]]) -> str:
    made = ["# Outside suites", "", HEAD, ""]
    made += [f"| suite | {' | '.join(KINDS)} |", f"|---|{'---|' * len(KINDS)}"]
    for suite in SUITES:
        count = Counter(each.kind for each in found.get(suite.name, ()))
        cells = " | ".join(str(count[kind]) for kind in KINDS)
        made.append(f"| tests of {suite.package.replace('_', '-')} {suite.version} | {cells} |")
    for kind in (*KINDS[1:4], KINDS[5]):
        made += ["", f"## {kind.capitalize()}", "", "| suite | tests | reason |", "|---|---|---|"]
        for name, some in found.items():
            count = Counter(each.reason for each in some if each.kind == kind)
            made += [f"| {name} | {n} | {escaped(reason)} |" for reason, n in sorted(count.items())]
    return "\n".join(made) + "\n"


def escaped(text: str) -> str:
    return (
        re.sub(r"[0-9a-f]{8}_[0-9a-f_]+|(?<=test)\d{10,}", "…", text).replace("|", "\\|").replace("<", "&lt;")
    )


HEAD = """Written by `make outside-suites` (`outside/run.py`). The tests come from the source distributions of
dbt-snowflake (the adapter tests of `dbt-tests-adapter`) and snowflake-sqlalchemy. *Refused*: the local Snowflake
refused a statement and named the unsupported feature. *Failed after a refusal*: a statement was refused,
and the test then failed with another error, which may be caused by the refusal. *Not applicable*: the test fails for
the reason given in `outside/not_applicable.tsv`. *Skipped*: the suite itself skips the test. The number of *failed*
tests must be 0. If a function or operator is refused, the reason is its shape, in the notation of
`generated_sql_shapes.txt`: `Cast(this, to=ARRAY)` is a cast to ARRAY."""


def main() -> int:
    asked, files = sys.argv[1:2], sys.argv[2:]
    found: dict[str, list[Outcome]] = {}
    for suite in SUITES:
        if asked not in ([], [suite.name]):
            continue
        found[suite.name] = []
        for file in files or files_of(suite):
            results = results_folder() / suite.name / f"{file.replace('/', '__')}.jsonl"
            if not results.exists():
                run(suite, file, results)
            found[suite.name] += outcomes(results, reasons_of(suite.name))
    if len(found) == len(SUITES):
        PAGE.write_text(page(found))
    failed = [each for some in found.values() for each in some if each.kind == "failed"]
    for each in failed:
        print(f"failed: {each.test}: {each.reason}")
    for name, some in found.items():
        print(name, dict(Counter(each.kind for each in some)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
