"""Draws what the servers did: answers a second, and the 99th percentile, at each number of requests at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.peers.rounds import Rounds

mpl.use("Agg")
from matplotlib import pyplot as plt

_COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#66c2a5", "#d55e00", "#e69f00", "#999999", "#bbbbbb", "#dddddd")


def draw(rounds: Rounds, servers: Sequence[str], loads: Sequence[str], path: Path) -> None:
    """Writes a PNG file.

    Args:
        rounds: What was measured.
        servers: Whose bars, in this order; one that has none is left out.
        loads: Groups of bars.
        path: Where to.
    """
    shown = [name for name in servers if any((name, load) in rounds.loads for load in loads)]
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for axes, key, title in (
        (panels[0], "rate", "answers a second"),
        (panels[1], "p99_ms", "99th percentile, ms (log)"),
    ):
        width = 0.85 / max(1, len(shown))
        for place, name in enumerate(shown):
            values = [rounds.median(name, load, key) or np.nan for load in loads]
            axes.bar(
                np.arange(len(loads)) + (place - (len(shown) - 1) / 2) * width,
                values,
                width,
                color=_COLOURS[place % len(_COLOURS)],
                label=name if key == "rate" else None,
            )
        axes.set_xticks(np.arange(len(loads)), loads)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_yscale("log")
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=130)
