"""What each output is, and so what is measured of it: by its shape, the original's answers, the labels, and its name.

In this order:

1. A metric that was asked for says what the output is: `top1`, `topk` and `agreement` scores, `recall`, `precision` and
   `f1` a map, `rmse`, `sqnr` and `cosine` a regression.
2. Integers and booleans are `classes`; strings are `other`; complex numbers are not compared.
3. Floats [samples, classes] of two classes or more are `scores` where each sample's values are probabilities that sum
   to 1, or the logarithms of such, or where `logit`, `score`, `prob` or `class` is in the output's name and they are
   not all in 0..1.
4. Where there are labels, they belong to one output, which is `scores` too: of those that have as many classes the
   one on which the original is most accurate. It can be an output of rule 3, other floats [samples, classes], or
   values in 0..1, [samples] or [samples, 1], which tell two classes; where `top1` or `topk` was asked for, only what
   these were asked for (`labelling`). All others are measured as if there were no labels.
5. Floats in 0..1, several a sample, some above one half and some below, are a `map`.
6. All others are `regression`: an error of the values is what is counted, where nothing says that only the largest
   matters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from converter.errors import OptionInvalid
from converter.findings import OutputKind
from converter.metrics.formulas import Array
from converter.metrics.labelling import BINARY, CERTAIN, LIKELY, Candidate, Labelling, find_labelled
from converter.metrics.plan import DEFAULT_THRESHOLD, Plan
from converter.metrics.requests import Request, parse_request

MAX_LOOKED_AT = 1_000
"""Samples of the original's answers, evenly spread; what all of them are like, the rest is taken for too."""

MAX_LOOKED_AT_BYTES = 64 * 2**20

MAX_ID_CLASSES = 100
"""Of integer class ids that a table of classes is made of."""

_SUM_TOLERANCE = 1e-2
"""Probabilities in float16 sum to 1 within some thousandths."""

_SCORE_NAMES = ("logit", "score", "prob", "class")

_WANTS_LABEL_CLASSES = 2
"""Columns from which on floats can be meant to be class scores."""


@dataclass(frozen=True, kw_only=True)
class _Output:
    """What is seen of one output.

    Attributes:
        columns: Classes that it could have scores for: of floats [samples, n], n; of [samples] floats 1; else 0.
        scores: Whether rule 3 holds.
        unit: Whether all looked at is in 0..1.
        thresholded: Whether some of it is above one half and some not.
        ids: One more than the largest integer of one-a-sample ids; 0 where it is something else.
    """

    name: str
    dtype: np.dtype[np.generic]
    columns: int
    scores: bool = False
    unit: bool = False
    thresholded: bool = False
    ids: int = 0
    cells: int = 1

    @property
    def classes(self) -> int:
        """As many as its scores tell apart: one probability tells two."""
        return self.columns if self.columns >= _WANTS_LABEL_CLASSES else 2


def make_plans(
    originals: Mapping[str, Array],
    labels: Array | None,
    metrics: Mapping[str, str],
    *,
    origin: str,
    later: Collection[str] = (),
) -> tuple[dict[str, Plan], tuple[str, ...]]:
    """What is measured of each output that can be compared, and what the user should know of the labels.

    Args:
        originals: The original's answers, by output, samples along the first axis.
        labels: One class a sample, or None.
        metrics: By output name, the metric that was asked for.
        origin: Where the labels come from, for messages.
        later: The outputs of other signatures than the one that the data are for.

    Raises:
        OptionInvalid: a metric is unknown, is for an output that is unknown, or can't be taken of that output.
        DataInvalid: a label is beyond the classes of every output that could be class scores.
    """
    unknown = sorted(set(metrics) - set(originals))
    if unknown:
        raise OptionInvalid(f"metric: {unknown[0]!r} is no output of the model, which gives {sorted(originals)}")
    requests = {name: parse_request(text) for name, text in sorted(metrics.items())}
    seen = [_look(name, array) for name, array in sorted(originals.items())]
    for output in seen:
        if output.name in requests:
            _check_request(output, requests[output.name], metrics[output.name])
    labelling = Labelling()
    if labels is not None:
        labelling = find_labelled(_candidates(seen, requests, later), originals, labels, origin)
    plans = {
        output.name: _plan(output, requests.get(output.name), labelled=output.name == labelling.output)
        for output in seen
        if output.dtype.kind in "fiubS" or output.name in requests
    }
    return plans, labelling.notes


def _look(name: str, array: Array) -> _Output:
    if array.dtype.kind != "f":
        return _Output(name=name, dtype=array.dtype, columns=0, ids=_ids(array))
    columns = 1 if array.ndim == 1 else array.shape[1] if array.ndim == 2 else 0
    row_bytes = max(1, array[:1].nbytes)
    count = max(1, min(len(array), MAX_LOOKED_AT, MAX_LOOKED_AT_BYTES // row_bytes))
    rows = np.asarray(array[np.unique(np.linspace(0, len(array) - 1, count).astype(np.int64))])
    values = rows[np.isfinite(rows)].astype(np.float64)
    unit = bool(values.size) and bool(values.min() >= 0 and values.max() <= 1)
    named = any(part in name.lower() for part in _SCORE_NAMES)
    return _Output(
        name=name,
        dtype=array.dtype,
        columns=columns,
        scores=columns >= _WANTS_LABEL_CLASSES
        and ((unit and _sums_to_one(rows)) or _are_log_probabilities(rows) or (named and not unit)),
        unit=unit,
        thresholded=bool(values.size) and bool(values.max() > DEFAULT_THRESHOLD >= values.min()),
        cells=array[:1].size,
    )


def is_probabilities(rows: Array) -> bool:
    """Whether all values of finite samples, [samples, classes], are in 0..1."""
    values = rows[np.isfinite(rows)]
    return bool(values.size) and bool(values.min() >= 0 and values.max() <= 1)


def _sums_to_one(rows: Array) -> bool:
    sums = rows[np.isfinite(rows).all(axis=1)].astype(np.float64).sum(axis=1)
    return bool(sums.size) and bool((np.abs(sums - 1) <= _SUM_TOLERANCE).all())


def _are_log_probabilities(rows: Array) -> bool:
    values = rows.astype(np.float64)
    if not values.size or np.isnan(values).any() or values.max() > _SUM_TOLERANCE:
        return False
    return _sums_to_one(np.exp(values))


def _ids(array: Array) -> int:
    """One more than the largest class id, where each sample has one small id; else 0."""
    if array.dtype.kind not in "iu" or array[:1].size != 1 or not len(array):
        return 0
    low, high = int(array.min()), int(array.max())
    return high + 1 if low >= 0 and high < MAX_ID_CLASSES else 0


def _check_request(output: _Output, request: Request, text: str) -> None:
    floats, numbers = output.dtype.kind == "f", output.dtype.kind in "fiub"
    fits, needs = {
        "top1": (floats and output.columns >= 1, "class scores, floats [samples, classes]"),
        "topk": (floats and output.columns >= 1, "class scores, floats [samples, classes]"),
        "agreement": (floats and output.columns >= 1, "class scores, floats [samples, classes]"),
        "recall": (floats, "floats"),
        "precision": (floats, "floats"),
        "f1": (floats, "floats"),
        "iou": (numbers, "numbers"),
        "rmse": (numbers, "numbers"),
        "sqnr": (numbers, "numbers"),
        "cosine": (numbers, "numbers"),
        "equal": (True, ""),
        "function": (True, ""),
    }[request.name]
    if not fits:
        raise OptionInvalid(f"metric {text!r} is for {needs}; output {output.name!r} is not that")
    if request.top_k > output.classes:
        raise OptionInvalid(f"metric {text!r}: output {output.name!r} has {output.classes} classes")


def _candidates(seen: list[_Output], requests: Mapping[str, Request], later: Collection[str]) -> list[Candidate]:
    """What the labels could be classes of."""
    asked = [one for one in seen if one.name in requests and requests[one.name].name in ("top1", "topk")]
    free = [one for one in seen if one.name not in requests or requests[one.name].name == "function"]
    found = []
    for one in asked or free:
        if asked or one.scores:
            standing = CERTAIN
        elif one.columns >= _WANTS_LABEL_CLASSES:
            standing = LIKELY
        elif one.columns == 1 and one.cells == 1 and one.unit:
            standing = BINARY
        else:
            continue
        found.append(Candidate(name=one.name, classes=one.classes, standing=standing, later=one.name in later))
    return found


def _plan(output: _Output, request: Request | None, *, labelled: bool) -> Plan:
    kind = _kind(output, request, labelled=labelled)
    asked = request.name if request else ""
    top_k = request.top_k if request else 0
    primary = {
        "": _usual(kind, labelled=labelled),
        "top1": "accuracy" if labelled else "top1_agreement",
        "topk": f"top{top_k}_accuracy" if labelled else f"top{top_k}_agreement",
        "agreement": "top1_agreement",
        "rmse": "relative_rmse",
        "sqnr": "sqnr_db",
        "function": request.function_name if request else "",
    }.get(asked, asked)
    return Plan(
        kind=kind,
        primary=primary,
        classes=output.classes if kind == "scores" else output.ids if kind == "classes" else 0,
        labelled=labelled,
        top_k=top_k,
        threshold=request.threshold if request else DEFAULT_THRESHOLD,
        also=(asked,) if asked in ("cosine", "iou", "equal") else (),
        function=request.function if request else "",
    )


def _kind(output: _Output, request: Request | None, *, labelled: bool) -> OutputKind:
    asked = request.name if request else ""
    if asked in ("rmse", "sqnr", "cosine"):
        return "regression"
    if output.dtype.kind != "f":
        return "classes" if output.dtype.kind in "iub" else "other"
    if asked in ("recall", "precision", "f1", "iou"):
        return "map"
    if asked in ("top1", "topk", "agreement") or labelled or output.scores:
        return "scores"
    return "map" if output.unit and output.thresholded and output.cells > 1 else "regression"


def _usual(kind: OutputKind, *, labelled: bool) -> str:
    """The primary metric where none was asked for."""
    if kind == "scores":
        return "accuracy" if labelled else "top1_agreement"
    return {"map": "f1", "regression": "relative_rmse"}.get(kind, "equal")
