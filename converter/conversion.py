"""The stages of a conversion, one method each; `pipeline` says their order.

Whatever runs TensorFlow or LiteRT runs in a child process (`isolation`), so that a crash is a failed variant.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from converter import data, edgetpu, extras, gpu, latency
from converter.artifact import Preprocess, Signature, TensorSpec
from converter.asking import ask_others
from converter.config import ConvertOptions, DataSpec
from converter.data import Dataset
from converter.errors import (
    BadInput,
    ConverterError,
    DataInvalid,
    OperatorsUnsupported,
    OptionInvalid,
    SourceInvalid,
    TaskCrashed,
    TaskFailed,
    TaskOutOfMemory,
    TaskRaised,
    TaskTimedOut,
    VariantUnusable,
)
from converter.evaluate import Reference, check_and_measure, make_reference
from converter.isolation import ForkServer
from converter.packing import Loaded, Made
from converter.places import Plan
from converter.progress import Counter
from converter.quantize import Lowering, lower
from converter.recipes import FLOAT32, MIXED, Recipe
from converter.result import VariantResult
from converter.server_model import ask_server_model
from converter.sources import source
from converter.sources.operators import describe

P = ParamSpec("P")
R = TypeVar("R")

Outcome = Made | VariantResult
"""Of one recipe: a variant, or why there is none."""

RECURRENT_HINT = "; TensorFlow's calibrator is known to end so on recurrent layers: their other variants work"

EDGETPU = "edgetpu"
"""The variant that the Edge TPU's compiler makes."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """One run's stages, and what they share.

    Attributes:
        options: What was asked for.
        plan: What was found in order, and what is to be made.
        server: What runs the child processes.
        folder: Where files are written until they are packed.
        counter: What says how far it is.
    """

    options: ConvertOptions
    plan: Plan
    server: ForkServer
    folder: Path
    counter: Counter

    def apart(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function in a child process, within the time and memory limits."""
        return self.server.run(function, self.options.time_limit_s, *args, **kwargs)

    def read(self) -> source.SourceModel:
        """Reads the model, and makes of it what can be lowered.

        Raises:
            SourceInvalid: it can't be read, or has operators that never run on LiteRT.
        """
        options = self.options
        self.counter.begin(f"reading {options.saved_model}")
        task = source.SourceTask(
            path=options.saved_model,
            kind=self.plan.kind,
            signatures=options.signatures,
            shapes=options.shapes,
            custom_objects=options.custom_objects,
            folder=self.folder / "source",
        )
        with _source_errors(options.saved_model):
            model = self.apart(source.prepare, task)
        _check_metrics(options.metrics, model.signatures)
        self.counter.end()
        return model

    def check_operators(self, model: source.SourceModel) -> None:
        """Lowers to float32, which every other variant is made by too: what fails here is told before a long run.

        Raises:
            OperatorsUnsupported: LiteRT lacks operators of the model.
        """
        self.counter.begin("looking for operators that LiteRT lacks")
        if lacking := self.apart(source.check_operators, model):
            raise OperatorsUnsupported(describe(lacking))
        try:
            self.apart(lower, self._lowering(FLOAT32, model, None, self._float_file))
        except OperatorsUnsupported:
            raise
        except ConverterError:
            pass  # Another variant may not share the reason; `make` tries float32 again and reports it.
        self.counter.end()

    def load(self, model: source.SourceModel) -> Loaded:
        """Reads and checks the data, the labels and the preprocessing."""
        options = self.options
        self.counter.begin("reading the data")
        signatures = model.signatures
        labels = extras.read_labels(options.labels, signatures) if options.labels else ()
        preprocess = extras.read_preprocess(options.preprocess, signatures) if options.preprocess else Preprocess()

        def dataset(spec: DataSpec | None, role: str) -> Dataset | None:
            if spec is None:
                return None
            try:
                place, measured = self.folder / role, role == "evaluation"
                return self.apart(data.load, spec, signatures[0], preprocess, place, labels=labels, use_labels=measured)
            except TaskFailed as error:
                # A function of the user's that ends its process, or no room for the samples.
                where = f" (samples are laid out in {self.folder.parent})"
                raise DataInvalid(f"{spec}: the {role} data can't be read: {error}{where}") from error

        if options.uint8_input:
            _check_foldable(preprocess)
        loaded = Loaded(
            source=model,
            digest=source.digest(options.saved_model, self.plan.kind),
            labels=labels,
            preprocess=preprocess,
            calibration=dataset(options.calibration, "calibration"),
            evaluation=dataset(options.evaluation, "evaluation"),
        )
        self.counter.end()
        return loaded

    def ask_original(self, loaded: Loaded) -> Reference | None:
        """Runs the original on the evaluation data, or else on the calibration data.

        Raises:
            SourceInvalid: it fails on them.
            OptionInvalid: a metric does not suit what it is for, or the servers' model answers something else.
            DataInvalid: the labels do not fit.
        """
        dataset = loaded.evaluation or loaded.calibration
        if dataset is None:
            self.counter.end("no data: variants are only tried on zeros")
            return None
        self.counter.begin(f"running the original on {dataset.samples} samples")
        first = loaded.source.signatures[0]
        with _source_errors(self.options.saved_model):
            outputs = self.apart(source.answer, loaded.source, first, dataset, self.folder / "original")
        others = ask_others(
            self.server, self.options.time_limit_s, loaded.source, dataset, self.folder / "original-others"
        )
        others.check(set(self.options.metrics) - set(outputs))
        # Apart too, since a metric can be a function of the user's.
        reference = self.apart(
            make_reference,
            dataset,
            outputs,
            use_labels=loaded.evaluation is not None,
            metrics=self.options.metrics,
            signature=first.name,
            others=others.answers,
        )
        reference = dataclasses.replace(reference, notes=(*reference.notes, *others.notes))
        if self.options.server_model:
            with _source_errors(self.options.server_model):
                signatures, folder = loaded.source.signatures, self.folder / "servers"
                reference = ask_server_model(self.apart, self.options.server_model, signatures, reference, folder)
        self.counter.end()
        return reference

    def make_all(self, loaded: Loaded, reference: Reference | None) -> list[Outcome]:
        """Every recipe's variant, as many at once as was asked for, in the recipes' order."""
        recipes = self.plan.recipes
        if self.options.jobs == 1:
            return [self.make(recipe, loaded, reference) for recipe in recipes]
        pool = ThreadPoolExecutor(self.options.jobs)
        try:
            return list(pool.map(lambda recipe: self.make(recipe, loaded, reference), recipes))
        finally:
            # An interrupt must not wait for the others: closing the fork server ends their processes.
            pool.shutdown(wait=False, cancel_futures=True)

    def make(self, recipe: Recipe, loaded: Loaded, reference: Reference | None) -> Outcome:
        """Converts by one recipe, checks and measures; if it does not work, why it was refused or failed."""
        if recipe.needs_calibration and loaded.calibration is None:
            self.counter.end(f"{recipe.name}: refused", steps=2)
            error = f"no calibration data: {recipe.name} needs real samples to find the range of each activation"
            return VariantResult(name=recipe.name, status="refused", error=error)
        file = self.folder / f"{recipe.name}.tflite"
        self.counter.begin(f"{recipe.name}: converting")
        try:
            if not file.exists():
                self.apart(lower, self._lowering(recipe, loaded.source, loaded, file))
        except VariantUnusable as error:
            self.counter.end(f"{recipe.name}: refused", steps=2)
            return VariantResult(name=recipe.name, status="refused", error=one_line(str(error)))
        except ConverterError as error:
            hint = RECURRENT_HINT if isinstance(error, TaskCrashed) and loaded.source.single_batch_lists else ""
            return self._failed(recipe.name, "conversion", error, steps=2, hint=hint)
        self.counter.end()
        self.counter.begin(f"{recipe.name}: running")
        try:
            made = self.measure(recipe, file, loaded, reference)
        except ConverterError as error:
            return self._failed(recipe.name, "run", error, steps=1)
        self.counter.end()
        return made

    def measure(self, recipe: Recipe, file: Path, loaded: Loaded, reference: Reference | None) -> Made:
        """Runs the variant in `file`, on all there is to measure on.

        Raises:
            ConverterError: it does not run, or is not what the original is.
        """
        ranges = self._ranges(loaded) if recipe.full_int8 else {}
        measured = self.apart(check_and_measure, file, loaded.source.signatures, reference, ranges)
        return Made(
            name=recipe.name,
            files=(file,),
            signatures=measured.signatures,
            metrics=measured.metrics,
            outputs=measured.outputs,
            cascade=measured.cascade,
            full_int8=recipe.full_int8,
            folded=tuple(sorted(ranges)),
        )

    def _ranges(self, loaded: Loaded) -> dict[str, tuple[float, float]]:
        """By the names of the inputs that are folded: the real values of the raw bytes 0 and 255."""
        if not self.options.uint8_input:
            return {}
        specs = {spec.name: spec for one in loaded.source.signatures for spec in one.inputs}
        ranges = {}
        for name, steps in sorted(loaded.preprocess.inputs.items()):
            bounds = steps.folds_into_uint8()
            if bounds and specs[name].dtype.startswith("float"):
                ranges[name] = bounds
        return ranges

    def search_task(self, loaded: Loaded, file: Path, float_layers: frozenset[str] = frozenset()) -> Lowering:
        """The task for one trial of the mixed search."""
        return dataclasses.replace(self._lowering(MIXED, loaded.source, loaded, file), float_layers=float_layers)

    def _lowering(self, recipe: Recipe, model: source.SourceModel, loaded: Loaded | None, file: Path) -> Lowering:
        """The task for one recipe; the float and the calibrated model are shared by all of this run."""
        return Lowering(
            saved_model=model.saved_model,
            signatures=model.signatures,
            recipe=recipe,
            file=file,
            calibration=loaded.calibration if loaded else None,
            max_samples=self.options.calibration_samples,
            float_file=self._float_file,
            calibrated_file=self.folder / "calibrated.tflite",
            single_batch_lists=model.single_batch_lists,
            input_ranges=self._ranges(loaded) if loaded and recipe.full_int8 else {},
        )

    @property
    def _float_file(self) -> Path:
        return self.folder / f"{FLOAT32.name}.tflite"

    def _failed(self, name: str, stage: str, error: ConverterError, *, steps: int, hint: str = "") -> VariantResult:
        text = one_line(f"{stage}: {error}{hint}")
        log = error.log if isinstance(error, TaskFailed) else ""
        self.counter.end(f"{name}: failed: {text}", log=log, steps=steps)
        return VariantResult(name=name, status="failed", error=text)

    def look_at(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Says of each variant what a GPU, and of full int8 ones what an Edge TPU would do; compiles for the latter."""
        looked: list[Outcome] = []
        for one in outcomes:
            if not isinstance(one, Made):
                looked.append(one)
                continue
            self.counter.expect(1)
            self.counter.begin(f"{one.name}: looking for what accelerators take")
            one = dataclasses.replace(one, gpu=self._report(gpu.report, one))  # noqa: PLW2901
            if one.full_int8:
                one = dataclasses.replace(one, edge_tpu=self._report(edgetpu.report, one))  # noqa: PLW2901
            looked.append(one)
            if one.full_int8 and (compiled := self._compiled(one)):
                looked.append(compiled)
            self.counter.end()
        return looked

    def _report(self, function: Callable[[Path], R], one: Made) -> R | None:
        """What is only foretold must not cost the variant, whose file runs."""
        try:
            return self.apart(function, one.files[0])
        except ConverterError as error:
            self.counter.begin(f"{one.name}: {one_line(str(error))}")
            return None

    def _compiled(self, one: Made) -> Outcome | None:
        options = self.options
        try:
            made = self.apart(
                edgetpu.compile,
                one.files[0],
                self.folder / "edgetpu",
                options.edgetpu_compiler,
                options.edgetpu_segments,
                options.time_limit_s,
            )
        except BadInput:
            raise
        except ConverterError as error:
            return self._failed(EDGETPU, "compilation", error, steps=0)
        if made is None:
            return None
        return dataclasses.replace(
            one,
            name=EDGETPU,
            files=made.files,
            # Metrics and findings are those of the file that it was compiled from: it can't be run here.
            signatures=tuple(map(_single, one.signatures)),
            delegate="edgetpu",
            edge_tpu=made.report,
            gpu=None,
            cascade=one.cascade,
        )

    def time(self, outcomes: Sequence[Outcome], loaded: Loaded, reference: Reference | None) -> list[Outcome]:
        """Times each variant on this host, one after the other, while nothing else of this run goes on."""
        if not self.options.measure_latency:
            return list(outcomes)
        timed: list[Outcome] = []
        data = reference.dataset if reference else None
        for one in outcomes:
            if isinstance(one, Made) and not one.latency:
                self.counter.expect(1)
                self.counter.begin(f"{one.name}: timing on this host")
                try:
                    signature = loaded.source.signatures[0]
                    times = self.apart(latency.measure, one.files[0], signature, self.plan.threads, dataset=data)
                    one = dataclasses.replace(one, latency=times)  # noqa: PLW2901
                    self.counter.end()
                except ConverterError as error:
                    # It ran when it was measured; that it fails now says that it can't be relied on.
                    one = self._failed(one.name, "timing", error, steps=1)  # noqa: PLW2901
            timed.append(one)
        return timed


def _check_metrics(metrics: Mapping[str, str], signatures: Sequence[Signature]) -> None:
    """Whether the outputs that metrics were given for are there, before anything is run."""
    known = [spec.name for spec in signatures[0].outputs]
    known += [f"{one.name}:{spec.name}" for one in signatures for spec in one.outputs]
    for name in sorted(set(metrics) - set(known)):
        raise OptionInvalid(f"metric: there is no output {name!r}; there are {', '.join(known)}")


def _check_foldable(preprocess: Preprocess) -> None:
    """Refuses to fold what can't be, rather than to leave a camera's bytes without a way in."""
    if not preprocess.inputs:
        raise OptionInvalid("uint8 input: there is no preprocessing to fold into it; give --preprocess")
    reasons = {name: one.unfoldable for name, one in sorted(preprocess.inputs.items())}
    if all(reasons.values()):
        name, reason = next(iter(reasons.items()))
        raise OptionInvalid(f"uint8 input: the preprocessing of {name!r} can't be folded: {reason}")


def _single(signature: Signature) -> Signature:
    """The signature of the same file with a batch of one: an Edge TPU takes no other."""
    if signature.batch_axis is None:
        return signature
    axis = signature.batch_axis

    def fixed(spec: TensorSpec) -> TensorSpec:
        shape = tuple(1 if index == axis else dim for index, dim in enumerate(spec.shape))
        return msgspec.structs.replace(spec, shape=shape)

    return msgspec.structs.replace(
        signature, inputs=tuple(map(fixed, signature.inputs)), outputs=tuple(map(fixed, signature.outputs))
    )


@contextlib.contextmanager
def _source_errors(path: Path) -> Iterator[None]:
    """A process that fails on the original itself says something about the original.

    A fork server that did not even start, which is a plain `TaskFailed`, does not.
    """
    try:
        yield
    except (TaskCrashed, TaskTimedOut, TaskOutOfMemory, TaskRaised) as error:
        raise SourceInvalid(f"{path}: the model can't be read or run: {error}") from error


def one_line(text: str, limit: int = 300) -> str:
    """For tables and results."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."
