"""SavedModel -> package, in fixed stages: load, ask the original, lower, check and measure, choose, pack.

This process never imports TensorFlow or LiteRT: whatever runs them runs in a child (`isolation`), so that a crash is
a failed variant.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from converter import extras
from converter.artifact import PackageExists, Preprocess, Signature, publish, version_path
from converter.config import DEFAULT_CALIBRATION_SAMPLES, DEFAULT_TIME_LIMIT_S, ConvertOptions
from converter.data import Dataset, check_npz, load_npz
from converter.errors import ConverterError, NoVariantMade, OptionInvalid, SourceInvalid, TaskFailed
from converter.evaluate import Reference, check_and_measure, make_reference
from converter.isolation import ForkServer
from converter.packing import Loaded, Working, manifest_of, notes_on, result_of
from converter.progress import Counter, Progress, silent
from converter.quantize import Lowering, lower
from converter.recipes import RECIPES, Recipe
from converter.result import PackageResult, VariantResult
from converter.sources import saved_model

P = ParamSpec("P")
R = TypeVar("R")

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
        signatures=(signature,),
        replace=replace,
        time_limit_s=time_limit_s,
        calibration_samples=calibration_samples,
    )
    return run(options, progress)


def _path(path: _StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def run(options: ConvertOptions, progress: Progress = silent, server: ForkServer | None = None) -> PackageResult:
    """`convert`, from checked options; several models in turn can share a server that has `PRELOAD` imported."""
    _check_places(options)
    counter = Counter(progress, total=3 + 2 * len(RECIPES))
    with (
        contextlib.nullcontext(server) if server else ForkServer(PRELOAD) as running,
        tempfile.TemporaryDirectory(prefix="edge-convert-") as folder,
    ):
        conversion = _Conversion(options=options, server=running, folder=Path(folder), counter=counter)
        loaded = conversion.load()
        reference = conversion.ask_original(loaded)
        made = [conversion.make(recipe, loaded, reference) for recipe in RECIPES]
        return conversion.pack(loaded, reference, made)


def _check_places(options: ConvertOptions) -> None:
    """What can be refused before TensorFlow is loaded."""
    target = version_path(options.output, options.name, options.version)
    if target.exists() and not options.replace:
        raise PackageExists(f"{target}: this version is already there; give --replace, or another version")
    place = options.output.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OptionInvalid(f"output: {place} is no directory that can be written to")
    saved_model.check_directory(options.saved_model)
    for path in (options.calibration, options.evaluation):
        if path:
            check_npz(path)
    for path in (options.labels, options.preprocess):
        if path and not path.is_file():
            raise OptionInvalid(f"{path}: no such file")


@dataclass(frozen=True, kw_only=True)
class _Conversion:
    """One run's stages, and what they share."""

    options: ConvertOptions
    server: ForkServer
    folder: Path
    counter: Counter

    def load(self) -> Loaded:
        """Reads and checks all that was given."""
        options = self.options
        self.counter.begin(f"reading {options.saved_model}")
        digest = saved_model.digest(options.saved_model)
        with _source_errors(options.saved_model):
            source = self._apart(saved_model.read, options.saved_model, options.signatures[0])
        signature = source.signature
        loaded = Loaded(
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

    def _apart(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return self.server.run(function, self.options.time_limit_s, *args, **kwargs)

    def ask_original(self, loaded: Loaded) -> Reference | None:
        """Runs the original on the evaluation data, or else on the calibration data."""
        dataset = loaded.evaluation or loaded.calibration
        if dataset is None:
            self.counter.end("no data: variants are only tried on zeros")
            return None
        self.counter.begin(f"running the original on {dataset.samples} samples")
        path = self.options.saved_model
        with _source_errors(path):
            outputs = self._apart(saved_model.answer, path, loaded.signature, dataset, self.folder / "original")
        reference = make_reference(dataset, outputs, use_labels=loaded.evaluation is not None)
        self.counter.end()
        return reference

    def make(self, recipe: Recipe, loaded: Loaded, reference: Reference | None) -> Working | VariantResult:
        """Converts by one recipe, checks and measures; if it does not work, why it was refused or failed."""
        if recipe.needs_calibration and loaded.calibration is None:
            self.counter.end(f"{recipe.name}: refused", steps=2)
            error = "no calibration data: int8 needs real samples to find the range of each activation"
            return VariantResult(name=recipe.name, status="refused", error=error)
        file = self.folder / f"{recipe.name}.tflite"
        lowering = Lowering(
            saved_model=self.options.saved_model,
            signature_name=loaded.signature.name,
            recipe=recipe,
            calibration=loaded.calibration,
            max_samples=self.options.calibration_samples,
            file=file,
        )
        self.counter.begin(f"{recipe.name}: converting")
        try:
            self._apart(lower, lowering)
        except ConverterError as error:
            return self._failed(recipe, "conversion", error, steps=2)
        self.counter.end()
        self.counter.begin(f"{recipe.name}: running")
        try:
            signature, metrics = self._apart(check_and_measure, file, loaded.signature, reference)
        except ConverterError as error:
            return self._failed(recipe, "run", error, steps=1)
        self.counter.end()
        return Working(name=recipe.name, file=file, signature=signature, metrics=metrics)

    def _failed(self, recipe: Recipe, stage: str, error: ConverterError, *, steps: int) -> VariantResult:
        text = _one_line(f"{stage}: {error}")
        log = error.log if isinstance(error, TaskFailed) else ""
        self.counter.end(f"{recipe.name}: failed: {text}", log=log, steps=steps)
        return VariantResult(name=recipe.name, status="failed", error=text)

    def pack(self, loaded: Loaded, reference: Reference | None, made: list[Working | VariantResult]) -> PackageResult:
        """Chooses, writes the manifest and publishes."""
        self.counter.begin("writing the package")
        working = [one for one in made if isinstance(one, Working)]
        variants = [one.result if isinstance(one, Working) else one for one in made]
        if not working:
            raise self._nothing(variants)
        manifest = manifest_of(self.options, loaded, reference, working)
        files = {one.packed_as: one.file for one in working}
        package = publish(files, manifest, self.options.output, replace=self.options.replace)
        self.counter.end()
        return result_of(manifest, package.path, variants, notes_on(loaded, reference))

    def _nothing(self, variants: list[VariantResult]) -> NoVariantMade:
        reasons: dict[str, list[str]] = {}
        for one in variants:
            reasons.setdefault(one.error or "", []).append(one.name)
        listed = "; ".join(f"{', '.join(names)}: {error}" for error, names in reasons.items())
        result = PackageResult(
            package=None, name=self.options.name, version=self.options.version, chosen={}, variants=tuple(variants)
        )
        return NoVariantMade(f"no variant could be made, so nothing was published: {listed}", result)


@contextlib.contextmanager
def _source_errors(path: Path) -> Iterator[None]:
    """A process that fails on the original itself says something about the original."""
    try:
        yield
    except TaskFailed as error:
        raise SourceInvalid(f"{path}: the SavedModel can't be read or run: {error}") from error


def _one_line(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."
