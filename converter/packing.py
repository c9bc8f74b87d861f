"""Puts a package together: the manifest and the findings out of what was made, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from converter.artifact import (
    FORMAT_VERSION,
    Cascade,
    Latency,
    Manifest,
    Metrics,
    Package,
    Preprocess,
    Signature,
    Source,
    Variant,
    publish,
)
from converter.artifact.digest import file_entry
from converter.config import Budget, ConvertOptions
from converter.data import Dataset
from converter.evaluate import Reference
from converter.findings import (
    FINDINGS_FILE,
    EdgeTpuReport,
    Findings,
    GpuReport,
    LayerError,
    OutputFindings,
    VariantFindings,
    encode,
)
from converter.into import place_in
from converter.result import VariantResult
from converter.sources.source import SourceModel
from converter.tools import tool_versions


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What was given, read and checked.

    Attributes:
        source: The model.
        digest: Its digest.
        calibration: The samples for int8.
        evaluation: The samples to measure on.
        labels: Class names.
        preprocess: How raw values become inputs.
    """

    source: SourceModel
    digest: str
    calibration: Dataset | None
    evaluation: Dataset | None
    labels: tuple[str, ...]
    preprocess: Preprocess


@dataclass(frozen=True, kw_only=True)
class Made:
    """A variant that was made, and ran, and was measured where there was something to measure on.

    Attributes:
        name: The recipe's.
        files: Its TFLite file, outside of any package yet; several where the model was cut into segments.
        signatures: The tensors as that file has them.
        metrics: What was measured.
        outputs: What was found out, by output.
        cascade: From what confidence on its answers can stand.
        full_int8: Whether all of it is int8, as an Edge TPU wants it.
        delegate: What runs it.
        folded: The inputs whose preprocessing is folded into them.
        layers: What quantizing each operator costs.
        layers_packed: Whether the package has the layers too: not where only the report asked for them, since a
            package is the same with a report and without.
        edge_tpu: What an Edge TPU would do with it.
        gpu: What a GPU would do with it.
        latency: On this host.
    """

    name: str
    files: tuple[Path, ...]
    signatures: tuple[Signature, ...]
    metrics: Metrics = field(default_factory=dict)
    outputs: dict[str, OutputFindings] = field(default_factory=dict)
    cascade: Cascade | None = None
    full_int8: bool = False
    delegate: str = "cpu"
    folded: tuple[str, ...] = ()
    layers: tuple[LayerError, ...] = ()
    layers_packed: bool = True
    edge_tpu: EdgeTpuReport | None = None
    gpu: GpuReport | None = None
    latency: tuple[Latency, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def packed(self) -> dict[str, Path]:
        """By path in the package, where its files are."""
        if self.delegate == "edgetpu":
            count = len(self.files)
            segments = [f"model_segment_{index}_of_{count}_edgetpu.tflite" for index in range(count)]
            return dict(zip(segments if count > 1 else ["model_edgetpu.tflite"], self.files, strict=True))
        return {f"{self.name}.tflite": self.files[0]}

    @property
    def result(self) -> VariantResult:
        """As it is reported."""
        return VariantResult(
            name=self.name,
            status="ok",
            size_bytes=self.size_bytes,
            metrics=self.metrics,
            latency=self.latency,
            cascade=self.cascade,
        )

    @property
    def findings(self) -> VariantFindings:
        """As they are reported."""
        return VariantFindings(
            outputs=self.outputs, layers=self.layers, edge_tpu=self.edge_tpu, gpu=self.gpu, cascade=self.cascade
        )

    def variant(self) -> Variant:
        """As the manifest has it."""
        paths = tuple(self.packed)
        return Variant(
            name=self.name,
            file=paths[0],
            # Of the one file: the others are listed, with their sizes, among the package's.
            size_bytes=self.files[0].stat().st_size,
            signatures=self.signatures,
            metrics=self.metrics,
            delegate="edgetpu" if self.delegate == "edgetpu" else "cpu",
            segments=paths if len(paths) > 1 else (),
            folded=self.folded,
            cascade=self.cascade,
        )


def findings_of(made: Sequence[Made], budget: Budget | None, notes: tuple[str, ...]) -> Findings:
    """What was found out of all that were made."""
    return Findings(
        variants={one.name: one.findings for one in made}, budget=str(budget) if budget else "", notes=notes
    )


def packed_findings(findings: Findings, made: Sequence[Made]) -> Findings:
    """What `evaluation.json` holds of them."""
    left_out = {one.name for one in made if not one.layers_packed}
    variants = {
        name: msgspec.structs.replace(one, layers=()) if name in left_out else one
        for name, one in findings.variants.items()
    }
    return msgspec.structs.replace(findings, variants=variants)


def publish_package(
    options: ConvertOptions,
    loaded: Loaded,
    reference: Reference | None,
    made: Sequence[Made],
    *,
    chosen: Mapping[str, str],
    findings: Findings,
    folder: Path,
    beside: Mapping[str, bytes | None],
    sign: Callable[[str], bytes] | None,
    before_moving: Callable[[], None],
) -> Package:
    """Writes the package; all of it or nothing.

    Args:
        options: Where to, under what name.
        loaded: What was given.
        reference: What the original answered.
        made: At least one, the most faithful first.
        chosen: By target, the name of one of them.
        findings: What was found out, of all that were made.
        folder: Where a file can be written that is packed then.
        beside: As of `artifact.publish`.
        sign: As of `artifact.publish`.
        before_moving: As of `artifact.publish`.

    Raises:
        PackageExists, OSError: see `artifact.publish`.
    """
    kept = [one for one in made if not options.only_chosen or one.name in chosen.values()]
    files = {path: file for one in kept for path, file in one.packed.items()}
    files[FINDINGS_FILE] = folder / FINDINGS_FILE
    files[FINDINGS_FILE].write_bytes(encode(packed_findings(findings, made)))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model=options.name,
        version=options.version,
        signatures=loaded.source.signatures,
        variants=tuple(one.variant() for one in kept),
        chosen=dict(chosen),
        labels=loaded.labels,
        preprocess=loaded.preprocess,
        preprocess_fingerprint=loaded.preprocess.fingerprint,
        source=Source(
            format=loaded.source.format,
            digest=loaded.digest,
            metrics=reference.metrics() if reference and loaded.evaluation else {},
        ),
        evaluation_samples=loaded.evaluation.samples if loaded.evaluation else 0,
        tools=tool_versions(loaded.source.tensorflow),
        files={path: file_entry(file) for path, file in files.items()},
    )
    return publish(
        files,
        manifest,
        options.output,
        replace=options.replace,
        beside=beside,
        copy_to=place_in(options.into) if options.into else None,
        sign=sign,
        before_moving=before_moving,
    )


def notes_on(loaded: Loaded, reference: Reference | None) -> tuple[str, ...]:
    """What the figures do not say, in plain words."""
    return (*loaded.source.notes, *_measurement_notes(loaded, reference))


def _measurement_notes(loaded: Loaded, reference: Reference | None) -> tuple[str, ...]:
    if reference is None:
        return ("Nothing was measured: no data were given. Each variant was only run once, on zeros.",)
    if loaded.evaluation is None:
        samples = reference.dataset.samples
        return (
            "Accuracy was not measured: no evaluation data were given.",
            f"The figures are the numeric error on {samples} calibration samples, which the quantization has seen.",
            *reference.notes,
        )
    if reference.dataset.labels_file is None:
        none = "The evaluation data hold no labels: the figures say how far variants differ from the original."
        return (none, *reference.notes)
    if not reference.labelled:
        unused = "The labels were not used: no output looks like class scores, [samples, classes]."
        return (unused, *reference.notes)
    return reference.notes
