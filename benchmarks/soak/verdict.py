"""What is said of a long run: pure functions of what was seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.soak.outcomes import ERROR, NAMELESS, OK, WRONG, Seen

GROWTH = 0.02
LATENCY = 0.10
PERCENTILES = (50, 90, 99)
AFTERMATH_S = 5.0
"""How long after a fault an error may be its doing."""

_POINTS = 200
_SLICES = 10
_LEAST_SLICE = 50
_LEAST_STEP = 1.0


class Verdict(NamedTuple):
    """What was to be held, how it is, and whether it was."""

    what: str
    said: str
    held: bool


def slope(at_s: np.ndarray, values: np.ndarray) -> float:
    """The median of the slopes between all pairs (Theil and Sen): a few peaks move it nowhere. 0 of one point."""
    first, second = np.triu_indices(len(values), 1)
    apart_s = at_s[second] - at_s[first]
    slopes = (values[second] - values[first])[apart_s > 0] / apart_s[apart_s > 0]
    return float(np.median(slopes)) if len(slopes) else 0.0


def growth(at_s: Sequence[float], values: Sequence[float]) -> float:
    """By which share of what it was something has grown from the first point to the last, by its slope.

    Of many points medians of some at a time count. What never was more than nothing has not grown.
    """
    if len(values) < 2:
        return 0.0
    parts = np.array_split(np.arange(len(values)), min(len(values), _POINTS))
    times = np.array([np.median(np.take(at_s, part)) for part in parts])
    medians = np.array([np.median(np.take(values, part)) for part in parts])
    grown = slope(times, medians) * float(times[-1] - times[0])
    middle = float(np.median(medians))
    begun = middle - grown / 2
    return grown / begun if begun > 0 else (math.inf if grown >= _LEAST_STEP else 0.0)


def calm(seen: Seen, faults_s: Sequence[float]) -> np.ndarray:
    """Which requests began when no fault had just been."""
    kept = np.ones(len(seen.at_s), bool)
    for fault_s in faults_s:
        # A request that was under way when the fault came began before it.
        ended_s = seen.at_s + seen.took_ms / 1e3
        kept &= (ended_s < fault_s) | (seen.at_s > fault_s + AFTERMATH_S)
    return kept


def latency_growth(seen: Seen) -> dict[int, float]:
    """By which share percentiles have grown, of all kinds together, each measured by its own median.

    A line through the percentiles of ten parts of the run, as for memory: so one part in which the machine had much
    else to do is neither the beginning nor the end.
    """
    ratios = np.empty(0)
    times = np.empty(0)
    for number in range(len(seen.kinds)):
        of = (seen.kind == number) & (seen.outcome == OK)
        if of.any():
            ratios = np.concatenate((ratios, seen.took_ms[of] / np.median(seen.took_ms[of])))
            times = np.concatenate((times, seen.at_s[of]))
    order = np.argsort(times)
    parts = [part for part in np.array_split(order, _SLICES) if len(part) >= _LEAST_SLICE]
    return {
        each: growth([float(np.median(times[part])) for part in parts], [
            float(np.percentile(ratios[part], each)) for part in parts
        ])
        for each in PERCENTILES
    }  # fmt: skip


def verdicts(
    seen: Seen, faults_s: Sequence[float], levels: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> list[Verdict]:
    """All that is to be held.

    Args:
        seen: Requests after the warm-up.
        faults_s: When a fault was made.
        levels: What must not grow: instants and values by name, after the warm-up.
    """
    quiet = seen.kept(calm(seen, faults_s))
    count = len(seen.outcome)
    wrong, nameless = int((seen.outcome == WRONG).sum()), int((seen.outcome == NAMELESS).sum())
    errors = int((quiet.outcome == ERROR).sum())
    found = [
        Verdict("wrong answers: none", f"{wrong} of {count}", wrong == 0 and count > 0),
        Verdict("errors without a name: none", str(nameless), nameless == 0),
        Verdict(f"errors {AFTERMATH_S:g} s after a fault or later: none", str(errors), errors == 0),
    ]
    for name, (at_s, values) in levels.items():
        grown = growth(at_s, values)
        said = f"{grown:+.1%} of {np.median(values):.4g}" if len(values) else "not seen"
        found.append(Verdict(f"{name}: grows by at most {GROWTH:.0%}", said, grown <= GROWTH and len(values) > 0))
    for each, grown in latency_growth(quiet).items():  # What became quicker is no fault.
        what = f"latency, percentile {each}: grows by at most {LATENCY:.0%}"
        found.append(Verdict(what, f"{grown:+.1%}", grown <= LATENCY))
    return found
