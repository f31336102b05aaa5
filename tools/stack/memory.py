"""The memory usage of the local stack's processes."""

from tools.stack.processes import Processes, descendants, description, memory


def rows(processes: Processes) -> list[dict[str, object]]:
    """Return one row per process and a last row with the sums. A function's process counts as part of LocalStack."""
    found: list[dict[str, object]] = []
    resident = proportional = 0
    for top in processes.recorded():
        if not top.is_alive():
            continue
        for process in [top, *descendants(top)]:
            if used := memory(process):
                resident, proportional = resident + used.rss_kib, proportional + used.pss_kib
                what = description(process)
                found.append(_row(top.name, process.pid, used.rss_kib, used.pss_kib, what))
    return [*found, _row("all", None, resident, proportional, "")]


def _row(part: str, pid: int | None, rss_kib: int, pss_kib: int, what: str) -> dict[str, object]:
    return {
        "part": part,
        "process": pid,
        "resident_mib": rss_kib // 1024,
        "proportional_mib": pss_kib // 1024,
        "what": what,
    }
