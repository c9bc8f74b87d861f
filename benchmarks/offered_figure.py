"""Draws what is answered in time over what is asked."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

if TYPE_CHECKING:
    from benchmarks.offered import Subject

mpl.use("Agg")
from matplotlib import pyplot as plt

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
_MARKS = ("o", "s", "^", "D", "v")


def draw(subjects: Sequence[Subject], path: Path) -> None:
    """Writes a PNG file: a line for each, as a multiple of what it bears.

    Args:
        subjects: Who was asked, and what became of it.
        path: Where to.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for subject, colour, mark in zip(subjects, _COLOURS, _MARKS, strict=False):
        loads = sorted(subject.goodput_hz)
        good = [statistics.median(subject.goodput_hz[load]) / subject.capacity_hz for load in loads]
        axes.plot(loads, good, color=colour, marker=mark, label=f"{subject.name} ({subject.capacity_hz:.0f}/s)")
    most = max((load for subject in subjects for load in subject.goodput_hz), default=1.0)
    axes.plot([0, 1, most], [0, 1, 1], color="black", linestyle="--", linewidth=1, label="all that can be borne")
    axes.set(
        xlabel="offered, as a multiple of what is borne",
        ylabel="answered in time, likewise",
        xlim=(0, most + 0.1),
        ylim=(0, None),
    )
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=130)
