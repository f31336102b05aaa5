"""Draw the plots of a load test as SVG: latency per request, memory per part, queue lengths, and throughput
by number of environments for each function.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from tests.load.load_profile import window
from tests.load.pass_criteria import Load
from tests.load.stack_tables import of

plt.switch_backend("svg")
plt.rcParams |= {"svg.hashsalt": "milkrun", "svg.fonttype": "none", "font.size": 9}


def draw(load: Load, path: Path) -> None:
    """Draw latency, memory and queue lengths as three panels with a common time axis; alternating shades mark
    the phases.
    """
    figure, (latency, memory, queue) = plt.subplots(3, 1, figsize=(8, 7), sharex=True)
    for panel in (latency, memory, queue):
        for number, phase in enumerate(load.plan):
            first, last = window(load.plan, phase.name)
            panel.axvspan(first, last, color="#e5e7eb" if number % 2 else "#f9fafb", linewidth=0)
        panel.spines[["top", "right"]].set_visible(False)
    for phase in load.plan:
        latency.text(sum(window(load.plan, phase.name)) / 2, 1.02, phase.name, ha="center",
                     transform=latency.get_xaxis_transform())  # fmt: skip
    latency.scatter(
        [s.due for s in load.sent], [s.seconds for s in load.sent], s=3, color="#1d4ed8", linewidths=0
    )
    latency.set_yscale("log")
    latency.set_ylabel("seconds to a 2xx")
    at = [sample.at for sample in load.samples]
    for part in sorted({name.rpartition(" ")[0] for sample in load.samples for name in sample.memory}):
        memory.plot(at, [sum(of(sample, part)) / 2**20 for sample in load.samples], label=part, linewidth=1)
    memory.set_ylabel("MiB resident")
    for name in load.samples[0].queues:
        unit = "s behind" if name == "behind_s" else name
        queue.plot(at, [sample.queues[name] for sample in load.samples], label=unit, linewidth=1)
    queue.set_ylabel("waiting")
    queue.set_xlabel("seconds")
    for panel in (memory, queue):
        panel.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def draw_sweep(functions: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a panel per function: events per second by number of environments on one vCPU, its two upper
    bounds, and the knee where these intersect (`functions.summary`).
    """
    figure, panels = plt.subplots(1, len(functions), figsize=(2.9 * len(functions), 2.8), squeeze=False)
    for panel, function in zip(panels[0], functions, strict=True):
        steps = function["steps"]
        xs = [step["environments"] for step in steps]
        panel.plot(
            xs,
            [step["events_per_s"] for step in steps],
            "o-",
            color="#1d4ed8",
            markersize=3,
            label="measured",
        )
        alone, most = steps[0]["events_per_s"], function["events_per_s_per_vcpu"]
        panel.plot(
            xs, [min(x * alone, most) for x in xs], "--", color="#9ca3af", linewidth=1, label="asymptotes"
        )
        panel.axvline(function["knee_environments"], color="#be185d", linewidth=0.8)
        panel.set_xscale("log", base=2)
        panel.set_title(function["title"], fontsize=8)
        panel.set_xlabel("environments")
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("events per second")
    panels[0][0].legend(frameon=False, fontsize=7)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
