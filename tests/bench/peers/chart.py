"""Draw a results file: for each work with something beside it, ours, the peers and the limit, on a log scale.

python chart.py latest.json latest.png
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

COLOURS = {"ours": "#1b6ca8", "limit": "#b0b0b0"}
PEER = "#e0912f"


def main() -> None:
    """Read and draw."""
    source, target = map(Path, sys.argv[1:3])
    results = json.loads(source.read_text())
    # A log scale has no place for zero.
    works = [result for result in results if (result["peers"] or result["limit"]) and result["ours"] > 0]
    if not works:
        return
    heights = [2 + len(result["peers"]) for result in works]
    figure, axes = plt.subplots(
        len(works),
        1,
        figsize=(9, 1 + 0.38 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axis, result in zip(axes[:, 0], works, strict=True):
        _draw(axis, result)
    machine = works[0]["machine"]
    figure.suptitle(
        f"{machine['processor']}, {machine['cores']} cores, commit {machine['commit']}, {machine['measured_at'][:10]}",
        fontsize=9,
    )
    figure.savefig(target, dpi=130)


def _draw(axis: Any, result: dict[str, Any]) -> None:
    bars = [("ours", result["ours"]), *sorted(result["peers"].items(), key=lambda each: -each[1])]
    if result["limit"]:
        bars.append(("limit", result["limit"]))
    names = [name for name, _ in reversed(bars)]
    values = [value for _, value in reversed(bars)]
    drawn = axis.barh(names, values, color=[COLOURS.get(name, PEER) for name in names])
    axis.set_xscale("log")
    axis.set_xlim(10 ** math.floor(math.log10(min(values)) - 0.3), max(values) * 4)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.bar_label(drawn, labels=[_number(value) for value in values], padding=3, fontsize=8)
    axis.set_title(f"{result['work']} ({result['unit']})", fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
