"""What is measured of one output, decided before any variant runs."""

from __future__ import annotations

from dataclasses import dataclass

from converter.findings import OutputKind

DEFAULT_THRESHOLD = 0.5
"""Of cells in a map: where a sigmoid says that both are as likely."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one output is compared with the original's. Picklable.

    Attributes:
        kind: What the output is taken for.
        primary: The metric that the budget is about.
        classes: How many there are, for scores, and for integers where each sample has one class id; else 0.
        labelled: Whether the labels of the data are classes of this output.
        top_k: K of `topK_accuracy`; 0 where it was not asked for.
        threshold: Above it a cell of a map counts.
        also: Metrics beside the usual ones of the kind: `cosine`, `iou`.
        function: `module:function`, where that is the primary metric; else empty.
    """

    kind: OutputKind
    primary: str
    classes: int = 0
    labelled: bool = False
    top_k: int = 0
    threshold: float = DEFAULT_THRESHOLD
    also: tuple[str, ...] = ()
    function: str = ""
