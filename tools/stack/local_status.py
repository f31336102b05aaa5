"""`milkrun status`: show whether a stage is healthy; for the local stack, also check its processes and its disk."""

import shutil
from collections.abc import Iterator, Mapping

import typer

from ops import status_report, terminal
from ops.outputs import NoStackError, Outputs
from ops.status_checks import findings_of
from ops.status_report import Finding, Source
from tools.stack.processes import Processes
from tools.stack.settings import Settings

SECTIONS = {
    "localstack": "the-local-aws-is-gone",
    "kinesis": "the-local-aws-is-gone",
    "snowflake": "snowflake-unreachable",
}
_UNKNOWN = "the state of local processes and the disk is unknown"
FULL_BELOW_MB = 50


def laptop_source(environment: Mapping[str, str]) -> Source:
    """Return the source of findings about the local stack: its free disk space, and the processes that were
    not stopped on purpose.
    """

    def look() -> Iterator[Finding]:
        settings = Settings.of(environment)
        yield _disk(settings)
        recorded = Processes(settings.run_folder, settings.log_folder).recorded()
        for process in recorded:
            part = f"process {process.name}"
            if not process.is_alive():
                cause, section = f"pid {process.pid} has died", SECTIONS.get(process.name, "")
                yield Finding(part, "FAIL", cause, None, "milkrun up", section)
            elif process.is_stopped(besides=recorded):
                yield Finding(part, "FAIL", f"pid {process.pid} is stopped (SIGSTOP)", None, "milkrun up")
            else:
                yield Finding(part, "OK", f"runs, pid {process.pid}")

    return Source("the local stack", ("disk", "processes"), look, _UNKNOWN)


def _disk(settings: Settings) -> Finding:
    """Return a finding about the free space on the fullest file system among those that hold the stack's files."""
    folders = (settings.folder, settings.snowflake_folder, settings.localstack_folder)
    free = [(shutil.disk_usage(each).free // 1_000_000, each) for each in folders if each.is_dir()]
    if not free:
        return Finding("disk", "OK", "nothing is stored yet")
    megabytes, folder = min(free)
    if megabytes >= FULL_BELOW_MB:
        return Finding("disk", "OK", f"{megabytes:,} MB free")
    cause = f"full: {megabytes} MB free in {folder}; make room there"
    return Finding("disk", "FAIL", cause, None, "milkrun up", "the-disk-is-full")


def command(
    context: typer.Context,
    *,
    stage: terminal.Stage = "local",
    watch: status_report.Watch = False,
    wide: status_report.AsWide = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Show whether a stage is healthy and, if it is not, what is wrong and what to do next.

    Exit codes: 0 (OK), 1 (WARN), 2 (FAIL).
    """
    environment: Mapping[str, str] = context.obj
    local = [laptop_source(environment)] if stage == "local" else []

    def look() -> list[Finding]:
        try:
            outputs = Outputs.find(stage, environment)
        except NoStackError as problem:
            if stage != "local":
                raise
            return [Finding("stack", "FAIL", str(problem), None, "milkrun up"), *status_report.ask(local)]
        return findings_of(outputs, stage, local)

    raise typer.Exit(status_report.report(look, stage, as_json=as_json, wide=wide, watch=watch))
