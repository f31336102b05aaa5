"""The findings of `milkrun status` about the local stack: its processes and its free disk space."""

import shutil
from collections.abc import Iterator, Mapping

from ops.status_findings import Finding, Source
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
    """Return the source of findings about the local stack: its free disk space, and whether each
    process that should be running is alive, dead or suspended (SIGSTOP).
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
            elif process.is_suspended(besides=recorded):
                yield Finding(part, "FAIL", f"pid {process.pid} is suspended (SIGSTOP)", None, "milkrun up")
            else:
                yield Finding(part, "OK", f"runs, pid {process.pid}")

    return Source("the local stack", ("disk", "processes"), look, _UNKNOWN)


def _disk(settings: Settings) -> Finding:
    """Return a finding about the least free space among the file systems that hold the stack's files."""
    folders = (settings.folder, settings.snowflake_folder, settings.localstack_folder)
    free = [(shutil.disk_usage(each).free // 1_000_000, each) for each in folders if each.is_dir()]
    if not free:
        return Finding("disk", "OK", "nothing is stored yet")
    megabytes, folder = min(free)
    if megabytes >= FULL_BELOW_MB:
        return Finding("disk", "OK", f"{megabytes:,} MB free")
    cause = f"almost full: {megabytes} MB free on the disk of {folder}; free some space on it"
    return Finding("disk", "FAIL", cause, None, "milkrun up", "the-disk-is-full")
