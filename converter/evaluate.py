"""Runs a variant on real inputs and measures what it lost. The parts that run LiteRT run in a child process."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from converter.artifact import VARIABLE, Cascade, Metrics, Signature
from converter.cascade import Evidence, confidence_kind
from converter.data import Array, Batch, Dataset
from converter.errors import OptionInvalid, VariantUnusable
from converter.findings import OutputFindings
from converter.metrics import Comparison, Plan, accuracy, make_plans, rounded
from converter.named_functions import load_named
from converter.outputs import OutputWriter, by_sample, comparable
from converter.variant_runner import Range, VariantRunner

RUN_INPUT_BYTES = 256 * 2**10
"""Of inputs in one call of a variant. Small nets gain from batches up to there (28x28 images: 23 us a sample alone,
18 us in batches of 64, 20 us of 256), large ones nowhere much; several threads gain nothing on a few cores."""

RUN_OUTPUT_BYTES = 16 * 2**20
"""Of outputs in one call: a picture that makes a picture may give far more than it takes."""

MAX_RUN_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The original's answers, which variants are measured against. Picklable.

    Attributes:
        dataset: What was asked.
        outputs: By output, the `.npy` with all samples' values. Outputs of the first signature go by their names, those
            of others by `qualified` names, here and wherever something is told of an output.
        plans: What is measured of each output that can be compared.
        measured: Whether these are evaluation data; else the figures are numeric error on calibration data.
        own: The original's own metrics: those that compare with labels, and the user's functions.
        others: The further signatures that answered.
        notes: What the user should know of what is measured, a sentence each.
        servers: By output, the `.npy` with what servers answer, where they have another model.
    """

    dataset: Dataset
    outputs: dict[str, Path]
    plans: dict[str, Plan]
    measured: bool = True
    own: Metrics = field(default_factory=dict)
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    servers: dict[str, Path] = field(default_factory=dict)

    @property
    def labelled(self) -> frozenset[str]:
        """The one output that the labels are classes of; empty where there is none."""
        return frozenset(name for name, plan in self.plans.items() if plan.labelled)

    def arrays(self) -> dict[str, Array]:
        """The outputs that are compared, mapped, not read."""
        return {name: np.load(self.outputs[name], mmap_mode="r") for name in self.plans}

    def of_servers(self, output: str) -> Array | None:
        """What servers answer; None where that is what the original does."""
        return np.load(self.servers[output], mmap_mode="r") if output in self.servers else None

    def labels(self) -> Array | None:
        """The classes, int64 [samples], where they may be used."""
        return self.dataset.labels() if self.measured else None

    def metrics(self) -> Metrics:
        """The original's own."""
        return {name: dict(found) for name, found in self.own.items()}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found out about a variant by running it. Picklable.

    Attributes:
        signatures: The tensors as its file has them.
        metrics: By output, then by metric; empty without data.
        outputs: What is reported of each output; likewise.
        cascade: For classifiers with labelled evaluation data.
    """

    signatures: tuple[Signature, ...]
    metrics: Metrics = field(default_factory=dict)
    outputs: dict[str, OutputFindings] = field(default_factory=dict)
    cascade: Cascade | None = None


def qualified(signature: str, output: str) -> str:
    """What an output of another signature than the first goes by: `SIGNATURE:OUTPUT`."""
    return f"{signature}:{output}"


def make_reference(
    dataset: Dataset,
    outputs: Mapping[str, Path],
    *,
    use_labels: bool,
    metrics: Mapping[str, str] | None = None,
    signature: str = "",
    others: Mapping[str, Mapping[str, Path]] | None = None,
) -> Reference:
    """Decides what is measured of each output, by its values, the labels and what was asked for.

    Where a metric is a function of the user's, that is loaded and called: then this is for a child process.

    Args:
        dataset: What the original was asked.
        outputs: By output name, the `.npy` with its answers.
        use_labels: Whether these are evaluation data, whose labels mean something.
        metrics: By output name, or `qualified` name, the metric that was asked for; see `metrics.requests`.
        signature: The name of the signature that the outputs are of, which metrics may name.
        others: By the name of a further signature that was asked the same, its outputs likewise.

    Raises:
        OptionInvalid: such a metric or its output is not known, does not suit the output, or its function fails.
        DataInvalid: a label is beyond the classes of every output that could be class scores.
    """
    later = {qualified(one, name): path for one, found in (others or {}).items() for name, path in found.items()}
    files = {**outputs, **later}
    arrays: dict[str, Array] = {name: np.load(path, mmap_mode="r") for name, path in files.items()}
    labels = dataset.labels() if use_labels else None
    asked = {
        name if name in files or not signature else name.removeprefix(qualified(signature, "")): metric
        for name, metric in (metrics or {}).items()
    }
    plans, notes = make_plans(arrays, labels, asked, origin=dataset.origin, later=later)
    own: Metrics = {}
    for name, plan in plans.items():
        found: dict[str, float] = {}
        if plan.labelled and labels is not None:
            found["accuracy"] = accuracy(arrays[name], labels)
            if plan.top_k:
                found[f"top{plan.top_k}_accuracy"] = accuracy(arrays[name], labels, plan.top_k)
        if plan.function and use_labels:
            found[plan.primary] = _call(plan.function, arrays[name], arrays[name], labels)
        if found:
            own[name] = found
    return Reference(
        dataset=dataset,
        outputs=files,
        plans=plans,
        measured=use_labels,
        own=own,
        others=tuple(others or ()),
        notes=notes,
    )


def _call(function: str, original: Array, variant: Array, labels: Array | None) -> float:
    called = load_named(function)
    try:
        value = float(called(original, variant, labels))
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise OptionInvalid(f"metric {function} raised {type(error).__name__}: {first}") from error
    if not math.isfinite(value):
        raise OptionInvalid(f"metric {function} returned {value}; a finite number, higher for better, is needed")
    return rounded(value)


def check_and_measure(
    file: Path,
    logical: tuple[Signature, ...],
    reference: Reference | None,
    ranges: Mapping[str, Range] | None = None,
) -> Measured:
    """Runs every signature of the variant on one sample and on two; those that the reference answers, on all of them.

    Args:
        file: The TFLite file.
        logical: The original's signatures, the one that the data are for first.
        reference: What to measure against; None for no data: then each signature is run on zeros.
        ranges: Of inputs that have their preprocessing folded in, as of `VariantRunner`.

    Raises:
        VariantUnusable: it is not what the original is: names, dtypes, batch axis, shapes, impossible values.
        OptionInvalid: a metric that is a function of the user's fails.
    """
    signatures: list[Signature] = []
    metrics: Metrics = {}
    outputs: dict[str, OutputFindings] = {}
    cascade: Cascade | None = None
    for place, signature in enumerate(logical):
        answered = reference is not None and (place == 0 or signature.name in reference.others)
        runner = _checked(file, signature, reference if answered else None, ranges)
        signatures.append(runner.signature)
        if reference is None or not answered:
            continue
        # What a model with a state learned from the samples above must not count.
        runner.reset()
        names = {spec.name: qualified(signature.name, spec.name) if place else spec.name for spec in signature.outputs}
        found = measure(runner, reference, names)
        metrics |= found[0]
        outputs |= found[1]
        cascade = cascade or found[2]
    return Measured(signatures=tuple(signatures), metrics=metrics, outputs=outputs, cascade=cascade)


def _checked(
    file: Path, logical: Signature, reference: Reference | None, ranges: Mapping[str, Range] | None
) -> VariantRunner:
    runner = VariantRunner(file, logical, ranges=ranges)
    for batch in _first_batches(logical, reference):
        for name, values in runner.run(batch.inputs).items():
            if logical.batch_axis is not None:
                by_sample(name, values, batch, keeps_axis=True)
            if values.ndim != len(logical.output(name).shape):
                want = list(logical.output(name).shape)
                raise VariantUnusable(f"output {name!r} has the shape {list(values.shape)}, the original's {want}")
    return runner


def _first_batches(logical: Signature, reference: Reference | None) -> list[Batch]:
    """One sample and, where the model takes several, two: zeros where there are no data."""
    sizes = (1, 2) if logical.batch_axis is not None else (1,)
    if reference is None:
        return [blank(logical, rows) for rows in sizes]
    first = next(iter(reference.dataset.batches(1)))
    twice = {name: np.concatenate([values, values]) for name, values in first.inputs.items() if len(sizes) > 1}
    return [first, Batch(start=0, samples=2, inputs=twice)][: len(sizes)]


def blank(signature: Signature, rows: int = 1) -> Batch:
    """Zeros (empty strings) that fit the signature; variable dimensions are 1, the batch axis is `rows`."""
    inputs = {}
    for spec in signature.inputs:
        shape = [1 if dim == VARIABLE else dim for dim in spec.shape]
        if signature.batch_axis is not None:
            shape[signature.batch_axis] = rows
        inputs[spec.name] = np.full(shape, b"") if spec.dtype == "string" else np.zeros(shape, spec.numpy_dtype)
    return Batch(start=0, samples=rows, inputs=inputs)


def measure(
    runner: VariantRunner, reference: Reference, names: Mapping[str, str]
) -> tuple[Metrics, dict[str, OutputFindings], Cascade | None]:
    """The metrics and findings of one signature's outputs over the whole dataset, and the cascade where there is one.

    Args:
        runner: Runs the signature.
        reference: What to measure against.
        names: By the signature's output names, what they go by in the reference, and in what is returned.
    """
    dataset, labels = reference.dataset, reference.labels()
    plans = {name: reference.plans[name] for name in sorted(names.values()) if name in reference.plans}
    originals = {name: array for name, array in reference.arrays().items() if name in plans}
    comparisons = {name: Comparison(name, plan) for name, plan in plans.items()}
    escalated = _cascade_output(plans, originals) if labels is not None else ""
    evidence = Evidence(confidence_kind(originals[escalated])) if escalated else None
    served = reference.of_servers(escalated)
    functions = [name for name, plan in plans.items() if plan.function and reference.measured]
    with tempfile.TemporaryDirectory(prefix="variant-", dir=_folder(reference)) as folder:
        writer = OutputWriter(Path(folder) / "outputs", functions, dataset)
        for batch in dataset.batches(_rows(reference, originals)):
            part = slice(batch.start, batch.start + batch.samples)
            outputs = {names[name]: values for name, values in runner.run(batch.inputs).items()}
            for name, comparison in comparisons.items():
                found = comparable(by_sample(name, outputs[name], batch, keeps_axis=dataset.keeps_axis))
                truth = labels[part] if labels is not None and plans[name].labelled else None
                comparison.add(originals[name][part], found, truth, batch.start)
                if name == escalated and evidence and truth is not None:
                    evidence.add((originals[name] if served is None else served)[part], found, truth)
            writer.add(batch, outputs)
        metrics = {name: comparison.metrics() for name, comparison in comparisons.items()}
        for name, file in writer.finish().items():
            variant = np.load(file, mmap_mode="r")
            metrics[name][plans[name].primary] = _call(plans[name].function, originals[name], variant, labels)
    findings = {
        name: comparison.findings(metrics[name], reference.own.get(name, {}) if reference.measured else None)
        for name, comparison in comparisons.items()
    }
    return metrics, findings, evidence.result(escalated) if evidence else None


def _folder(reference: Reference) -> Path | None:
    """Beside the original's answers: that folder goes with the conversion, even where this process is killed."""
    return next((path.parent for path in reference.outputs.values()), None)


def _rows(reference: Reference, originals: Mapping[str, Array]) -> int:
    """How many samples go into one call of the variant."""
    input_bytes = sum(array[:1].nbytes for array in reference.dataset.arrays().values())
    output_bytes = sum(array[:1].nbytes for array in originals.values())
    by_inputs = RUN_INPUT_BYTES // max(1, input_bytes)
    by_outputs = RUN_OUTPUT_BYTES // max(1, output_bytes)
    return max(1, min(MAX_RUN_ROWS, by_inputs, by_outputs))


def _cascade_output(plans: Mapping[str, Plan], originals: Mapping[str, Array]) -> str:
    """The output whose confidence decides: the labelled one, with scores of two classes or more; else empty."""
    fitting = [name for name, plan in plans.items() if plan.labelled and originals[name].ndim == 2]
    return next((name for name in fitting if originals[name].shape[1] > 1), "")
