"""SavedModel -> package, in fixed stages: load, ask the original, lower, check and measure, choose, pack.

This process never imports TensorFlow or LiteRT: whatever runs them runs in a child (`isolation`), so that a crash is
a failed variant.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from converter import extras
from converter.artifact import (
    FORMAT_VERSION,
    Manifest,
    Package,
    PackageExists,
    Preprocess,
    Signature,
    Source,
    Variant,
    publish,
    version_path,
)
from converter.artifact.digest import file_entry
from converter.choose import Candidate, choose
from converter.config import DEFAULT_CALIBRATION_SAMPLES, DEFAULT_TIME_LIMIT_S, ConvertOptions
from converter.data import Dataset, load_npz
from converter.errors import ConverterError, NoVariantMade, SourceInvalid, TaskFailed
from converter.evaluate import Reference, check_and_measure, make_reference
from converter.isolation import ForkServer
from converter.progress import Counter, Progress, silent
from converter.quantize import Lowering, lower
from converter.recipes import RECIPES, Recipe
from converter.result import PackageResult, VariantResult
from converter.sources import saved_model
from converter.tools import tool_versions

PRELOAD = ("tensorflow", "ai_edge_litert.interpreter")

_StrPath = str | os.PathLike[str]


def convert(
    *,
    saved_model: _StrPath,
    name: str,
    version: int,
    output: _StrPath,
    calibration: _StrPath | None = None,
    evaluation: _StrPath | None = None,
    labels: _StrPath | None = None,
    preprocess: _StrPath | None = None,
    signature: str = "serving_default",
    replace: bool = False,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    calibration_samples: int = DEFAULT_CALIBRATION_SAMPLES,
    progress: Progress = silent,
) -> PackageResult:
    """Makes `output/name/version/` and `output/name-version.tar.gz`; all of it or nothing.

    Args: as of `config.ConvertOptions`; `progress` is called in this thread as steps begin and end.

    Raises:
        BadInput: an option, the SavedModel, the data, the labels or the preprocessing can't be worked with.
        PackageExists: the version is there, and `replace` is False.
        NoVariantMade: every variant failed or was refused.
        TaskFailed: reading the SavedModel, or running it, ended its process.
        OSError: the disk is full, or `output` can't be written.
    """
    options = ConvertOptions(
        saved_model=Path(saved_model),
        name=name,
        version=version,
        output=Path(output),
        calibration=_path(calibration),
        evaluation=_path(evaluation),
        labels=_path(labels),
        preprocess=_path(preprocess),
        signature=signature,
        replace=replace,
        time_limit_s=time_limit_s,
        calibration_samples=calibration_samples,
    )
    return run(options, progress)


def _path(path: _StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def run(options: ConvertOptions, progress: Progress = silent) -> PackageResult:
    """`convert`, from checked options."""
    target = version_path(options.output, options.name, options.version)
    if target.exists() and not options.replace:
        raise PackageExists(f"{target}: this version is already there; give --replace, or another version")
    saved_model.check_directory(options.saved_model)
    counter = Counter(progress, total=3 + 2 * len(RECIPES))
    with ForkServer(PRELOAD) as server, tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        conversion = _Conversion(options=options, server=server, folder=Path(folder), counter=counter)
        loaded = conversion.load()
        reference = conversion.ask_original(loaded)
        made = [conversion.make(recipe, loaded, reference) for recipe in RECIPES]
        return conversion.pack(loaded, reference, made)


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """What was read before anything is converted."""

    signature: Signature
    tensorflow: str
    digest: str
    calibration: Dataset | None
    evaluation: Dataset | None
    labels: tuple[str, ...]
    preprocess: Preprocess


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What became of one recipe; with the variant's file where it works."""

    result: VariantResult
    file: Path | None = None
    signature: Signature | None = None


@dataclass(frozen=True, kw_only=True)
class _Conversion:
    """One run's stages, and what they share."""

    options: ConvertOptions
    server: ForkServer
    folder: Path
    counter: Counter

    def load(self) -> _Loaded:
        """Reads and checks all that was given."""
        options = self.options
        self.counter.begin(f"reading {options.saved_model}")
        digest = saved_model.digest(options.saved_model)
        source = self.server.run(saved_model.read, options.time_limit_s, options.saved_model, options.signature)
        signature = source.signature
        loaded = _Loaded(
            signature=signature,
            tensorflow=source.tensorflow,
            digest=digest,
            labels=extras.read_labels(options.labels, signature) if options.labels else (),
            preprocess=extras.read_preprocess(options.preprocess, signature) if options.preprocess else Preprocess(),
            calibration=self._dataset(options.calibration, signature, "calibration"),
            evaluation=self._dataset(options.evaluation, signature, "evaluation"),
        )
        self.counter.end()
        return loaded

    def _dataset(self, path: Path | None, signature: Signature, role: str) -> Dataset | None:
        return load_npz(path, signature, self.folder / role) if path else None

    def ask_original(self, loaded: _Loaded) -> Reference | None:
        """Runs the original on the evaluation data, or else on the calibration data."""
        dataset = loaded.evaluation or loaded.calibration
        if dataset is None:
            self.counter.end("no data: variants are only tried on zeros")
            return None
        self.counter.begin(f"running the original on {dataset.samples} samples")
        options = self.options
        try:
            outputs = self.server.run(
                saved_model.answer,
                options.time_limit_s,
                options.saved_model,
                loaded.signature,
                dataset,
                self.folder / "original",
            )
        except TaskFailed as error:
            raise SourceInvalid(f"{options.saved_model}: the SavedModel can't be run: {error}") from error
        reference = make_reference(dataset, outputs, use_labels=loaded.evaluation is not None)
        self.counter.end()
        return reference

    def make(self, recipe: Recipe, loaded: _Loaded, reference: Reference | None) -> _Made:
        """Converts by one recipe, and checks and measures the outcome; whatever goes wrong is the result's."""
        if recipe.needs_calibration and loaded.calibration is None:
            self.counter.end(f"{recipe.name}: refused", steps=2)
            error = "no calibration data: int8 needs real samples to find the range of each activation"
            return _Made(result=VariantResult(name=recipe.name, status="refused", error=error))
        file = self.folder / f"{recipe.name}.tflite"
        steps = 2
        try:
            self.counter.begin(f"{recipe.name}: converting")
            self._lower(recipe, loaded, file)
            self.counter.end()
            steps = 1
            self.counter.begin(f"{recipe.name}: running")
            signature, metrics = self.server.run(
                check_and_measure, self.options.time_limit_s, file, loaded.signature, reference
            )
        except ConverterError as error:
            log = error.log if isinstance(error, TaskFailed) else ""
            self.counter.end(f"{recipe.name}: failed: {_one_line(error)}", log=log, steps=steps)
            return _Made(result=VariantResult(name=recipe.name, status="failed", error=_one_line(error)))
        self.counter.end()
        result = VariantResult(name=recipe.name, status="ok", size_bytes=file.stat().st_size, metrics=metrics)
        return _Made(result=result, file=file, signature=signature)

    def _lower(self, recipe: Recipe, loaded: _Loaded, file: Path) -> None:
        options = self.options
        lowering = Lowering(
            saved_model=options.saved_model,
            signature_name=loaded.signature.name,
            recipe=recipe,
            calibration=loaded.calibration,
            max_samples=options.calibration_samples,
            file=file,
        )
        self.server.run(lower, options.time_limit_s, lowering)

    def pack(self, loaded: _Loaded, reference: Reference | None, made: list[_Made]) -> PackageResult:
        """Chooses, writes the manifest and publishes."""
        self.counter.begin("writing the package")
        works = [one for one in made if one.file]
        if not works:
            reasons = "; ".join(f"{one.result.name}: {one.result.error}" for one in made)
            raise NoVariantMade(f"no variant could be made, so nothing was published: {reasons}")
        manifest = self._manifest(loaded, reference, works)
        files = {f"{one.result.name}.tflite": one.file for one in works if one.file}
        package = publish(files, manifest, self.options.output, replace=self.options.replace)
        self.counter.end()
        return _result(package, made, _notes(loaded, reference))

    def _manifest(self, loaded: _Loaded, reference: Reference | None, works: list[_Made]) -> Manifest:
        original = reference.metrics() if reference and loaded.evaluation else {}
        variants = tuple(_variant(one) for one in works)
        candidates = [Candidate(name=one.name, size_bytes=one.size_bytes, metrics=one.metrics) for one in variants]
        return Manifest(
            format_version=FORMAT_VERSION,
            model=self.options.name,
            version=self.options.version,
            signatures=(loaded.signature,),
            variants=variants,
            chosen={"default": choose(candidates, original, measured=loaded.evaluation is not None)},
            labels=loaded.labels,
            preprocess=loaded.preprocess,
            source=Source(format=saved_model.FORMAT, digest=loaded.digest, metrics=original),
            evaluation_samples=loaded.evaluation.samples if loaded.evaluation else 0,
            tools=tool_versions(loaded.tensorflow),
            files={f"{one.result.name}.tflite": file_entry(one.file) for one in works if one.file},
        )


def _variant(made: _Made) -> Variant:
    if made.signature is None or made.result.size_bytes is None:
        raise ValueError(f"{made.result.name}: not made")
    return Variant(
        name=made.result.name,
        file=f"{made.result.name}.tflite",
        size_bytes=made.result.size_bytes,
        signatures=(made.signature,),
        metrics=made.result.metrics,
    )


def _result(package: Package, made: list[_Made], notes: tuple[str, ...]) -> PackageResult:
    manifest = package.manifest
    return PackageResult(
        package=str(package.path),
        name=manifest.model,
        version=manifest.version,
        chosen=dict(manifest.chosen),
        variants=tuple(one.result for one in made),
        source_metrics=manifest.source.metrics,
        evaluation_samples=manifest.evaluation_samples,
        notes=notes,
    )


def _notes(loaded: _Loaded, reference: Reference | None) -> tuple[str, ...]:
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


def _one_line(error: Exception, limit: int = 300) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= limit else f"{line[:limit]}..."
