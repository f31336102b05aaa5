"""Plot simulations as SVG. The same simulations always produce the same bytes."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from tools.outage_simulation.flow import QUEUES, Simulation

plt.switch_backend("svg")
plt.rcParams |= {"svg.hashsalt": "milkrun", "svg.fonttype": "none", "font.size": 9}

NAMES = {"phones": "on phones", "redrive": "redrive queue", "stream": "stream", "pipe": "Snowpipe's queue"}
COLOURS = {"phones": "#b45309", "redrive": "#be185d", "stream": "#1d4ed8", "pipe": "#15803d"}
POINTS = 400  # per line; more would not be visible and only enlarge the file


def draw(simulations: Sequence[Simulation], path: Path) -> None:
    """Draw one panel per simulation with the number of events waiting in each queue that has a backlog, over the
    hours since the start of the outage.
    """
    figure, panels = plt.subplots(1, len(simulations), figsize=(3.4 * len(simulations), 2.8), squeeze=False)
    for panel, simulation in zip(panels[0], simulations, strict=True):
        samples = simulation.samples[:: max(1, len(simulation.samples) // POINTS)]
        hours = [(sample.at - simulation.outage.begins) / 3600 for sample in samples]
        panel.axvspan(0, simulation.outage.seconds / 3600, color="#e5e7eb", linewidth=0)
        for queue in QUEUES:
            if simulation.largest(queue) > 3 * simulation.size.events_per_second * 10:
                waiting = [getattr(sample, queue) for sample in samples]
                panel.plot(hours, waiting, color=COLOURS[queue], label=NAMES[queue], linewidth=1.2)
        panel.set_title(f"{simulation.size.name} events per second")
        panel.set_xlabel("hours since the start of the outage")
        panel.set_ylim(bottom=0)
        panel.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    panels[0][0].set_ylabel("events waiting")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
