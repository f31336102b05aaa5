"""A story as an SVG, the same bytes for the same story."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "milkrun", "svg.fonttype": "none", "font.size": 9}
import matplotlib.pyplot as plt  # noqa: E402 - its settings come first

from tools.fleet.simulate.flow import LINES, Story  # noqa: E402

NAMES = {"phones": "on phones", "redrive": "redrive queue", "stream": "stream", "pipe": "Snowpipe's queue"}
COLOURS = {"phones": "#b45309", "redrive": "#be185d", "stream": "#1d4ed8", "pipe": "#15803d"}
POINTS = 400  # of a line: more is not seen and swells the file


def draw(stories: Sequence[Story], path: Path) -> None:
    """One panel a story: what waits where, in events, over hours since the outage began."""
    figure, panels = plt.subplots(1, len(stories), figsize=(3.4 * len(stories), 2.8), squeeze=False)
    for panel, story in zip(panels[0], stories, strict=True):
        looks = story.looks[:: max(1, len(story.looks) // POINTS)]
        hours = [(look.at - story.outage.begins) / 3600 for look in looks]
        panel.axvspan(0, story.outage.seconds / 3600, color="#e5e7eb", linewidth=0)
        for line in LINES:
            if story.most(line) > 3 * story.size.events_per_second * 10:
                waiting = [getattr(look, line) for look in looks]
                panel.plot(hours, waiting, color=COLOURS[line], label=NAMES[line], linewidth=1.2)
        panel.set_title(f"{story.size.name} events a second")
        panel.set_xlabel("hours since it began")
        panel.set_ylim(bottom=0)
        panel.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    panels[0][0].set_ylabel("events waiting")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
