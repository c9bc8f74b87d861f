"""One output of a variant against the original's, fed batch after batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from converter.errors import VariantUnusable
from converter.findings import OutputFindings
from converter.metrics.formulas import Array, rounded
from converter.metrics.loss import loss_points
from converter.metrics.plan import Plan
from converter.metrics.sums import Cells, ClassTable, Cosine, Equality, NumericError, Ranking
from converter.metrics.worst import Worst

Floats = npt.NDArray[np.float64]


class Comparison:
    """Sums up what is planned for one output."""

    def __init__(self, name: str, plan: Plan) -> None:
        """Nothing compared yet."""
        self._name = name
        self._plan = plan
        kind = plan.kind
        self._worst = Worst(plan)
        self._error = NumericError(with_relative=kind == "regression") if kind in _REAL else None
        self._cosine = Cosine() if "cosine" in plan.also else None
        self._cells = Cells(plan.threshold, with_iou="iou" in plan.also) if kind == "map" else None
        self._ranking = Ranking(plan) if kind == "scores" else None
        wants_equal = kind in ("classes", "other") or "equal" in plan.also
        self._equality = Equality(with_iou="iou" in plan.also and kind == "classes") if wants_equal else None
        self._ids = ClassTable(plan) if kind == "classes" else None

    def add(self, original: Array, found: Array, labels: Array | None, start: int) -> None:
        """Compares one batch, samples along the first axis; `start` is its first sample's index.

        Args:
            original: The original's values.
            found: The variant's.
            labels: Int [samples], where the plan is labelled.
            start: In the whole data.

        Raises:
            VariantUnusable: shapes differ, or a value is NaN or infinite where the original's is not.
        """
        if found.shape != original.shape:
            raise VariantUnusable(
                f"output {self._name!r} has the shape {list(found.shape)}, the original's {list(original.shape)}"
            )
        if self._error:
            self._add_real(self._error, original, found, start)
        if self._cells:
            self._cells.add(original, found)
        if self._ranking:
            self._ranking.add(original, found, labels)
        if self._equality:
            self._equality.add(original, found)
            if not self._error and original.dtype.kind != "S":
                apart = (original != found).reshape(len(original), -1)
                self._worst.add(start, np.sqrt(apart.mean(axis=1)), original, found)
        if self._ids and self._plan.classes:
            self._ids.add(original.ravel(), found.ravel().astype(np.int64), None)

    def _add_real(self, error: NumericError, original: Array, found: Array, start: int) -> None:
        # Where the original itself has no finite value there is nothing to compare with.
        kept = np.isfinite(original)
        broken = kept & ~np.isfinite(found)
        if broken.any():
            first = int(np.argwhere(broken)[0][0])
            raise VariantUnusable(f"output {self._name!r} is {found[broken].flat[0]} for sample {start + first}")
        shape = (len(original), -1 if original.size else 0)
        reference: Floats = np.where(kept, original, 0).astype(np.float64).reshape(shape)
        difference: Floats = np.where(kept, found, 0).astype(np.float64).reshape(shape)
        difference -= reference
        flat = kept.reshape(shape)
        error.add(reference[flat], difference[flat])
        with np.errstate(over="ignore"):
            squares = np.square(difference).sum(axis=1) / np.maximum(1, flat.sum(axis=1))
        self._worst.add(start, np.sqrt(np.minimum(squares, np.finfo(np.float64).max)), original, found)
        if self._cosine:
            self._cosine.add(reference, difference)

    def metrics(self) -> dict[str, float]:
        """The metrics of all that was added, by name."""
        found: dict[str, float] = {}
        for one in (self._error, self._cosine, self._cells, self._ranking, self._equality):
            if one:
                found.update(one.result())
        return {name: rounded(value) for name, value in sorted(found.items())}

    def findings(self, metrics: Mapping[str, float], original: Mapping[str, float] | None) -> OutputFindings:
        """What is reported of the output.

        Args:
            metrics: As of `metrics()`, with the function's where the plan has one.
            original: The original's own metrics of this output; None where nothing was measured on evaluation data.
        """
        table = self._ranking.table() if self._ranking else self._ids
        loss, reference = (None, 100.0) if original is None else loss_points(self._plan.primary, metrics, original)
        return OutputFindings(
            kind=self._plan.kind,
            primary=self._plan.primary,
            loss_points=loss,
            reference_points=reference,
            classes=table.classes() if table else (),
            confusion=table.confusion() if table else (),
            worst=self._worst.result(),
        )


_REAL = ("scores", "map", "regression")
"""Kinds whose values are real numbers, so that their difference means something."""
