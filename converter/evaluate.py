"""Runs a variant on real inputs and measures what it lost. The parts that run LiteRT run in a child process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converter.artifact import VARIABLE, Metrics, Signature
from converter.data import Array, Batch, Dataset
from converter.errors import DataInvalid
from converter.metrics import Comparison, accuracy, is_numeric, looks_like_scores
from converter.outputs import by_sample
from converter.variant_runner import VariantRunner


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The original's answers, which variants are measured against. Picklable.

    Attributes:
        dataset: What was asked.
        outputs: By output name, the `.npy` with all samples' values.
        scores: The outputs that look like class scores.
        labelled: Those of them that the labels are classes of; empty where there are no labels.
    """

    dataset: Dataset
    outputs: dict[str, Path]
    scores: frozenset[str]
    labelled: frozenset[str]

    def arrays(self) -> dict[str, Array]:
        """The outputs that can be compared, mapped, not read."""
        arrays = {name: np.load(path, mmap_mode="r") for name, path in self.outputs.items()}
        return {name: array for name, array in arrays.items() if is_numeric(array.dtype)}

    def metrics(self) -> Metrics:
        """The original's own: its accuracy on the labels."""
        labels = self.dataset.labels()
        if labels is None:
            return {}
        arrays = self.arrays()
        return {name: {"accuracy": accuracy(arrays[name], labels)} for name in sorted(self.labelled)}


def make_reference(dataset: Dataset, outputs: Mapping[str, Path], *, use_labels: bool) -> Reference:
    """What the outputs are, by their shapes and the labels.

    Raises:
        DataInvalid: a label is beyond the classes of every output that looks like class scores.
    """
    arrays = {name: np.load(path, mmap_mode="r") for name, path in outputs.items()}
    classes = {name: array.shape[1] for name, array in arrays.items() if looks_like_scores(array.shape, array.dtype)}
    labels = dataset.labels() if use_labels else None
    labelled: set[str] = set()
    if labels is not None and classes:
        labelled = {name for name, count in classes.items() if labels.max() < count}
        if not labelled:
            name, count = max(classes.items(), key=lambda item: item[1])
            raise DataInvalid(
                f"{dataset.origin}: label {labels.max()} of sample {int(labels.argmax())}; output {name!r} has {count} "
                f"classes, 0 to {count - 1}"
            )
    return Reference(dataset=dataset, outputs=dict(outputs), scores=frozenset(classes), labelled=frozenset(labelled))


def check_and_measure(file: Path, logical: Signature, reference: Reference | None) -> tuple[Signature, Metrics]:
    """Runs the variant: first on one sample and on two, then, where there is a reference, on all of them.

    Returns:
        The signature as the file has it, and the metrics.

    Raises:
        VariantUnusable: it is not what the original is: names, dtypes, batch axis, shapes, impossible values.
    """
    runner = VariantRunner(file, logical)
    for batch in _first_batches(logical, reference):
        outputs = runner.run(batch.inputs)
        if reference is None or reference.dataset.keeps_axis:
            for name, values in outputs.items():
                if logical.batch_axis is not None:
                    by_sample(name, values, batch, keeps_axis=True)
    return runner.signature, measure(runner, reference) if reference else {}


def _first_batches(logical: Signature, reference: Reference | None) -> list[Batch]:
    """One sample and, where the model takes several, two: zeros where there are no data."""
    sizes = (1, 2) if logical.batch_axis is not None else (1,)
    if reference is None:
        return [blank(logical, rows) for rows in sizes]
    return [next(iter(reference.dataset.batches(rows))) for rows in sizes]


def blank(signature: Signature, rows: int = 1) -> Batch:
    """Zeros (empty strings) that fit the signature; variable dimensions are 1, the batch axis is `rows`."""
    inputs = {}
    for spec in signature.inputs:
        shape = [1 if dim == VARIABLE else dim for dim in spec.shape]
        if signature.batch_axis is not None:
            shape[signature.batch_axis] = rows
        inputs[spec.name] = np.full(shape, b"") if spec.dtype == "string" else np.zeros(shape, spec.numpy_dtype)
    return Batch(start=0, samples=rows, inputs=inputs)


def measure(runner: VariantRunner, reference: Reference) -> Metrics:
    """The metrics of each output over the whole dataset."""
    dataset, originals, labels = reference.dataset, reference.arrays(), reference.dataset.labels()
    comparisons = {
        name: Comparison(scores=name in reference.scores, labelled=name in reference.labelled) for name in originals
    }
    for batch in dataset.batches():
        part = slice(batch.start, batch.start + batch.samples)
        outputs = runner.run(batch.inputs)
        for name, comparison in comparisons.items():
            found = by_sample(name, outputs[name], batch, keeps_axis=dataset.keeps_axis)
            truth = labels[part] if labels is not None and name in reference.labelled else None
            comparison.add(name, originals[name][part], found, truth, batch.start)
    return {name: comparison.result() for name, comparison in sorted(comparisons.items())}
