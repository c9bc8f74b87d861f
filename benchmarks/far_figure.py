"""Draws what became of the requests of a load, second by second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.far_scene import DEADLINE_MS, RUN_MS, Outcome, Tally

mpl.use("Agg")
from matplotlib import pyplot as plt

_STYLE = {
    "device": ("#0072b2", "answered in time by the device"),
    "server": ("#e69f00", "answered in time by the server"),
    "told": ("#bbbbbb", "not answered in time"),
}


def _kind(one: Outcome) -> str:
    return one.place if one.in_time else "told"


def draw(tally: Tally, began_s: float, marks: Mapping[str, float], alone: Tally, path: Path) -> None:
    """Writes a PNG file: requests by what became of them, the events, and what the device does alone.

    Args:
        tally: Of the load.
        began_s: Its first instant, in monotonic seconds.
        marks: Events, likewise.
        alone: The same load on the device alone.
        path: Where to.
    """
    seconds = int(tally.seconds)
    edges = np.arange(seconds + 1)
    counts = {
        kind: np.histogram([one.due_s - began_s for one in tally.outcomes if _kind(one) == kind], bins=edges)[0]
        for kind in _STYLE
    }
    figure, axes = plt.subplots(figsize=(11, 4.5), layout="constrained")
    axes.stackplot(
        edges[:-1] + 0.5,
        list(counts.values()),
        colors=[colour for colour, _ in _STYLE.values()],
        labels=[f"{text} ({counts[kind].sum()})" for kind, (_, text) in _STYLE.items()],
    )
    axes.axhline(
        alone.goodput, color="black", linestyle="--", linewidth=1, label=f"device alone: {alone.goodput:.0f}/s"
    )
    for text, at_s in marks.items():
        axes.axvline(at_s - began_s, color="#cc79a7", linewidth=1)
        axes.annotate(
            text, (at_s - began_s, 1), xycoords=("data", "axes fraction"), xytext=(2, 4), textcoords="offset points",
            va="bottom", fontsize=9, color="#883366",
        )  # fmt: skip
    axes.set(xlabel="time, s", ylabel="requests a second", xlim=(0, seconds), ylim=(0, None))
    figure.suptitle(f"Three times what a device with runs of {RUN_MS} ms can answer, {DEADLINE_MS:.0f} ms to live each")
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=130)
