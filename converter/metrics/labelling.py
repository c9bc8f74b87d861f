"""Which output the labels of the data are classes of. It is one: data have one class a sample.

Of all outputs that could hold the labels it is the one on which the original is right most often. Neither a name nor
a shape tells as much: a head with other classes, a box or an embedding is right no more often than by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from converter.errors import DataInvalid
from converter.metrics.formulas import Array, accuracy

CERTAIN, LIKELY, BINARY = range(3)
"""How an output comes to be a candidate: its values, its name or the user say that it holds class scores; it is
floats [samples, n]; it is one value in 0..1 a sample."""

CHANCE_FACTOR = 1.5

CHANCE_MARGIN = 0.1
"""Of the way from chance to all right: of two classes, 1.5 times chance is what a fair classifier has."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An output that the labels could be classes of.

    Attributes:
        name: The output's.
        classes: As many as it tells apart.
        standing: `CERTAIN`, `LIKELY` or `BINARY`.
        later: Whether it is of another signature than the one that the data are for.
    """

    name: str
    classes: int
    standing: int
    later: bool = False


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The output that the labels were taken for.

    Attributes:
        output: Its name; empty where there is none.
        notes: What the user should know, a sentence each.
    """

    output: str = ""
    notes: tuple[str, ...] = ()


def find_labelled(
    candidates: Sequence[Candidate], originals: Mapping[str, Array], labels: Array, origin: str
) -> Labelling:
    """The candidate on which the original is most accurate; an output of another signature only where no other fits.

    Of equally accurate ones it is the more certain one, then that with fewer classes, then the first by name.

    Args:
        candidates: In any order.
        originals: The original's answers, by output.
        labels: Int [samples], 0 or more.
        origin: Where they come from, for messages.

    Raises:
        DataInvalid: a label is beyond the classes of each candidate, and not all of these are binary.
    """
    highest = int(labels.max())
    fitting = [one for one in candidates if highest < one.classes]
    fitting = [one for one in fitting if not one.later] or fitting
    if not fitting:
        _check_beyond(candidates, labels, origin)
        return Labelling()
    right = {one.name: accuracy(originals[one.name], labels) for one in fitting}
    best, *others = sorted(fitting, key=lambda one: (-right[one.name], one.standing, one.classes, one.name))
    notes = []
    if others:
        rest = ", ".join(f"{one.name!r} ({_percent(right[one.name])})" for one in others)
        notes.append(
            f"The labels were taken for output {best.name!r}, on which the original is right for "
            f"{_percent(right[best.name])} of the samples; they would fit too: {rest} (--metric OUTPUT=top1 names "
            "another one)."
        )
    if right[best.name] <= _hardly_above_chance(best.classes):
        notes.append(
            f"The labels seem not to fit: on output {best.name!r} the original is right for "
            f"{_percent(right[best.name])} of the samples, a guess among {best.classes} classes for "
            f"{_percent(1 / best.classes)}."
        )
    return Labelling(output=best.name, notes=tuple(notes))


def _check_beyond(candidates: Sequence[Candidate], labels: Array, origin: str) -> None:
    claiming = [one for one in candidates if one.standing != BINARY]
    claiming = [one for one in claiming if not one.later] or claiming
    if claiming:
        most = max(claiming, key=lambda one: one.classes)
        raise DataInvalid(
            f"{origin}: label {int(labels.max())} of sample {int(labels.argmax())}; output {most.name!r} has "
            f"{most.classes} classes, 0 to {most.classes - 1}"
        )


def _hardly_above_chance(classes: int) -> float:
    chance = 1 / max(2, classes)
    return min(CHANCE_FACTOR * chance, chance + CHANCE_MARGIN * (1 - chance))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
