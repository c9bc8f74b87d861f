"""Is an answer unsure? Pure: what a package says of its variants, and an answer, go in; the doubtful rows come out.

A classifier's confidence is its largest probability. Below a threshold, which the converter found on labelled data, a
server's larger model is more often right by so much that both together are as accurate as that model alone: Viola and
Jones' cascade of classifiers (2001), with one step on the device and one on a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from converter.artifact import Cascade, Manifest, Signature
from edge_runtime.types import Array, Arrays, InferRequest

Rows = npt.NDArray[np.bool_]
"""One entry for each row of a request."""

_SUM_TOLERANCE = 0.01
"""What rounding, also to 8 bits, leaves between a row of probabilities' sum and 1."""


class Bar(msgspec.Struct, frozen=True):
    """From what confidence on the answers of one signature can stand.

    Attributes:
        output: The output with class scores, `[rows, classes]`.
        confidence: How it is read off a row: `max` is the largest value (of probabilities), `softmax` the largest of
            their softmax (of logits), `either` looks which of them they are.
        threshold: A row with a lower confidence is unsure; None where the package says none.
    """

    output: str
    confidence: Literal["max", "softmax", "either"]
    threshold: float | None


def bars(manifest: Manifest, variant: str) -> dict[str, Bar]:
    """By signature, what is known of a variant's answers; signatures without class scores are not in it.

    Where the package says nothing, a threshold of the application's own is for the one output that can be class scores.

    Args:
        manifest: The package's.
        variant: The name of the variant that answers.
    """
    cascade = next((one.cascade for one in manifest.variants if one.name == variant), None)
    if cascade is None:
        found = {one.name: _scores(one, len(manifest.labels)) for one in manifest.signatures}
        return {name: Bar(output, "either", None) for name, output in found.items() if output}
    signature, output = _placed(cascade, manifest.signatures)
    return {signature: Bar(output, cascade.confidence, cascade.threshold)} if signature else {}


def _placed(cascade: Cascade, signatures: Iterable[Signature]) -> tuple[str, str]:
    """The signature and the output that a cascade is of; empty words where the package has no such output.

    Outputs of the first signature go by their names, those of the others by `SIGNATURE:OUTPUT`.
    """
    for place, one in enumerate(signatures):
        for spec in one.outputs:
            if cascade.output == (f"{one.name}:{spec.name}" if place else spec.name):
                return one.name, spec.name
    return "", ""


def _scores(signature: Signature, labels: int) -> str:
    """The output that must be class scores; empty where none or several could be."""
    able = [
        spec
        for spec in signature.outputs
        if spec.dtype.startswith("float") and len(spec.shape) == 2 and spec.shape[1] > 1
    ]
    fitting = [spec for spec in able if spec.shape[1] == labels] or able
    return fitting[0].name if len(fitting) == 1 else ""


def confidences(scores: Array, kind: Literal["max", "softmax", "either"]) -> npt.NDArray[np.float64]:
    """How sure each row is, of scores [rows, classes]; NaN where one of its values is."""
    values = scores.astype(np.float64)
    largest: npt.NDArray[np.float64] = values.max(axis=1)
    if kind == "max" or (kind == "either" and _are_probabilities(values)):
        return largest
    with np.errstate(invalid="ignore"):  # Infinities: what comes of them is NaN, and unsure.
        # The largest value's own term is exp(0) = 1.
        sure: npt.NDArray[np.float64] = 1.0 / np.exp(values - largest[:, np.newaxis]).sum(axis=1)
    return sure


def _are_probabilities(values: npt.NDArray[np.float64]) -> bool:
    return bool(values.min() >= 0 and (np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE).all())


def unsure_rows(bar: Bar, threshold: float, outputs: Mapping[str, Array]) -> Rows:
    """Which rows of an answer are below the threshold; a confidence that is no number is."""
    scores = outputs[bar.output]
    if scores.ndim != 2:
        scores = scores.reshape(-1, scores.shape[-1] if scores.ndim else 1)
    unsure: Rows = ~(confidences(scores, bar.confidence) >= threshold)
    return unsure


def numberless(bar: Bar, outputs: Mapping[str, Array]) -> bool:
    """Whether an answer says nothing of how sure it is: it has rows whose scores have no number for it."""
    scores = outputs.get(bar.output)
    if scores is None or scores.ndim != 2:  # Of other forms nothing is known.
        return False
    return bool(np.isnan(confidences(scores, bar.confidence)).any())


def of_rows(request: InferRequest, rows: Rows) -> InferRequest:
    """The request with those of its rows alone; the whole of it where it has no batch axis, or all are meant."""
    if not request.batched or len(rows) != request.rows or rows.all():
        return request
    inputs = {name: array[rows] for name, array in request.inputs.items()}
    return replace(request, inputs=inputs, rows=int(rows.sum()))


def merged(local: Mapping[str, Array], rows: Rows, better: Mapping[str, Array]) -> Arrays:
    """The device's answer, with a server's in those of its rows that the server was asked for.

    Raises:
        ValueError: the server's outputs do not fit the device's.
    """
    found: Arrays = {}
    count = int(rows.sum())
    for name, mine in local.items():
        theirs = better.get(name)
        if theirs is None or theirs.dtype != mine.dtype or theirs.shape != (count, *mine.shape[1:]):
            said = "nothing" if theirs is None else f"{theirs.dtype}{list(theirs.shape)}"
            raise ValueError(f"output {name!r}: the server gave {said}, the device {mine.dtype}{list(mine.shape)}")
        found[name] = array = mine.copy()
        array[rows] = theirs
    return found


def why_never(manifest: Manifest, asked: Literal["off", "on"] | float) -> str:
    """Why no answer of a package would ever count as unsure, though that was asked for; empty where some may."""
    if asked == "off":
        return ""
    found = [bar for one in manifest.variants for bar in bars(manifest, one.name).values()]
    if not found:
        return "no output of its is known to be class scores"
    if asked == "on" and all(bar.threshold is None for bar in found):
        return "its package has no threshold: convert it with labelled evaluation data, or give a threshold"
    return ""
