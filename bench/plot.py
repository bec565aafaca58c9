"""The plot of what bench/run.py measured: a panel for each row, a bar for each contestant, the spread of its runs as a
line. matplotlib is looked for only here.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

OURS, THEIRS = "#1f6feb", "#9aa4b2"


def draw(results: Path, target: Path) -> Path | None:
    """Draw and return ``target``; None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = json.loads(results.read_text())["rows"].values()
    heights = [len(row["contestants"]) + 1 for row in rows]
    figure, panels = pyplot.subplots(
        len(heights),
        1,
        figsize=(9, 0.42 * sum(heights) + 0.8),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for panel, row in zip(panels[:, 0], rows, strict=True):
        entries = row["contestants"][::-1]
        names = [entry["name"] for entry in entries]
        medians = [entry["median"] for entry in entries]
        colors = [OURS if "Upswarm" in name or len(set(names)) < 3 else THEIRS for name in names]
        panel.barh(names, medians, color=colors, height=0.62)
        for place, entry in enumerate(entries):
            panel.plot([entry["low"], entry["high"]], [place, place], color="black", linewidth=1.2)
            panel.annotate(
                f" {entry['median']:.4g}", (max(entry["median"], entry["high"]), place), va="center", fontsize=8
            )
        panel.set_title(f"{row['title']} ({row['unit']})", loc="left", fontsize=9)
        panel.margins(x=0.12)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    figure.savefig(target)
    pyplot.close(figure)
    return target
