"""Puts a package together: the manifest out of what was made, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converter.artifact import FORMAT_VERSION, Manifest, Metrics, Preprocess, Signature, Source, Variant
from converter.artifact.digest import file_entry
from converter.choose import Candidate, choose
from converter.config import ConvertOptions
from converter.data import Dataset
from converter.evaluate import Reference
from converter.result import PackageResult, VariantResult
from converter.sources import saved_model
from converter.tools import tool_versions


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What was given, read and checked.

    Attributes:
        signature: The one that is converted.
        tensorflow: The version of TensorFlow that read it.
        digest: The source's.
        calibration: The samples for int8.
        evaluation: The samples to measure on.
        labels: Class names.
        preprocess: How raw values become inputs.
    """

    signature: Signature
    tensorflow: str
    digest: str
    calibration: Dataset | None
    evaluation: Dataset | None
    labels: tuple[str, ...]
    preprocess: Preprocess


@dataclass(frozen=True, kw_only=True)
class Working:
    """A variant that was made, ran and was measured.

    Attributes:
        name: The recipe's.
        file: Its TFLite file, outside of any package yet.
        signature: The tensors as that file has them.
        metrics: What was measured.
    """

    name: str
    file: Path
    signature: Signature
    metrics: Metrics

    @property
    def packed_as(self) -> str:
        """Its path in the package."""
        return f"{self.name}.tflite"

    @property
    def result(self) -> VariantResult:
        """As it is reported."""
        return VariantResult(name=self.name, status="ok", size_bytes=self.file.stat().st_size, metrics=self.metrics)


def manifest_of(
    options: ConvertOptions, loaded: Loaded, reference: Reference | None, working: Sequence[Working]
) -> Manifest:
    """The manifest of a package with these variants, at least one, the most faithful first."""
    measured = loaded.evaluation is not None
    original = reference.metrics() if reference and measured else {}
    files = {one.packed_as: file_entry(one.file) for one in working}
    variants = tuple(
        Variant(
            name=one.name,
            file=one.packed_as,
            size_bytes=files[one.packed_as].size_bytes,
            signatures=(one.signature,),
            metrics=one.metrics,
        )
        for one in working
    )
    candidates = [Candidate(name=one.name, size_bytes=one.size_bytes, metrics=one.metrics) for one in variants]
    return Manifest(
        format_version=FORMAT_VERSION,
        model=options.name,
        version=options.version,
        signatures=(loaded.signature,),
        variants=variants,
        chosen={"default": choose(candidates, original, measured=measured)},
        labels=loaded.labels,
        preprocess=loaded.preprocess,
        source=Source(format=saved_model.FORMAT, digest=loaded.digest, metrics=original),
        evaluation_samples=loaded.evaluation.samples if loaded.evaluation else 0,
        tools=tool_versions(loaded.tensorflow),
        files=files,
    )


def result_of(
    manifest: Manifest, where: Path, variants: Sequence[VariantResult], notes: tuple[str, ...]
) -> PackageResult:
    """What is said of the package that was published at `where`."""
    return PackageResult(
        package=str(where),
        name=manifest.model,
        version=manifest.version,
        chosen=dict(manifest.chosen),
        variants=tuple(variants),
        source_metrics=manifest.source.metrics,
        evaluation_samples=manifest.evaluation_samples,
        notes=notes,
    )


def notes_on(loaded: Loaded, reference: Reference | None) -> tuple[str, ...]:
    """What the figures do not say, in plain words."""
    if reference is None:
        return ("Nothing was measured: no data were given. Each variant was only run once, on zeros.",)
    if loaded.evaluation is None:
        samples = reference.dataset.samples
        return (
            "Accuracy was not measured: no evaluation data were given.",
            f"The figures are the numeric error on {samples} calibration samples, which the quantization has seen.",
        )
    if reference.dataset.labels_file is None:
        return ("The evaluation data hold no labels: the figures say how far variants differ from the original.",)
    if not reference.labelled:
        return ("The labels were not used: no output looks like class scores, [samples, classes].",)
    return ()
