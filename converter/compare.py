"""Two models on the same data: what the second one answers otherwise than the first, and how right each is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import msgspec

from converter import data as data_
from converter.artifact import Metrics, Package, Preprocess, Signature, Variant
from converter.artifact.schema import MANIFEST
from converter.config import DEFAULT_SIGNATURE, DEFAULT_TIME_LIMIT_S, DataSpec
from converter.data import Dataset
from converter.declared import check_declared
from converter.errors import OptionInvalid, SourceInvalid, TaskFailed, VariantUnusable
from converter.evaluate import Measured, check_and_measure, make_reference
from converter.figures import count_text, in_order, metric_heading, metric_text, points_text, size_text
from converter.findings import OutputFindings
from converter.inspection import opened
from converter.isolation import ForkServer
from converter.outputs import OutputWriter
from converter.progress import Counter, Progress, silent
from converter.report import aligned
from converter.sources import source
from converter.variant_runner import Range, VariantRunner
from converter.workspace import working_folder

P = ParamSpec("P")
R = TypeVar("R")

_LITERT = "ai_edge_litert.interpreter"


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two.

    Attributes:
        path: As it was given.
        kind: What it is.
        variant: Which one of a package; None for an original.
        size_bytes: Of the variant's file, or of all the original's files.
        metrics: Its own, by output: what compares with labels.
    """

    path: str
    kind: Literal["package", "saved_model", "keras", "hdf5"]
    variant: str | None
    size_bytes: int
    metrics: Metrics = {}

    def __str__(self) -> str:
        return f"{self.path} ({self.variant})" if self.variant else self.path


class CompareResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        first: What the second is compared with.
        second: The package that was compared.
        samples: How many samples both were asked.
        metrics: The second's against the first's, by output.
        outputs: By output: what was lost, by class and by sample.
        notes: What the user should know, a sentence each.
    """

    first: Compared
    second: Compared
    samples: int
    metrics: Metrics
    outputs: dict[str, OutputFindings]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers: what `--json` prints."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def table(self) -> str:
        """Lines for a person: both with what is their own, then the second against the first."""
        own = in_order({name for one in (self.first, self.second) for found in one.metrics.values() for name in found})
        outputs = sorted({name for one in (self.first, self.second) for name in one.metrics})
        columns = [(output, name) for output in outputs for name in own if name in self.first.metrics.get(output, {})]
        headings = [_heading(name, output if outputs[1:] else "") for output, name in columns]
        sides = [["", "model", "variant", "size", *headings]]
        for letter, one in (("A", self.first), ("B", self.second)):
            values = [metric_text(name, one.metrics.get(output, {}).get(name)) for output, name in columns]
            sides.append([letter, one.path, one.variant or "original", size_text(one.size_bytes), *values])
        said = f"B against A, on {count_text(self.samples, 'sample')}:"
        return "\n".join(
            [*aligned(sides), "", said, *self._against(set(own)), *(["", *self.notes] if self.notes else [])]
        )

    def _against(self, own: set[str]) -> list[str]:
        names = in_order({name for found in self.metrics.values() for name in found} - own)
        rows = [["output", *(metric_heading(name) for name in names), "loss"]]
        for output, found in sorted(self.metrics.items()):
            lost = self.outputs[output].loss_points
            values = [metric_text(name, found.get(name)) for name in names]
            rows.append([output, *values, "" if lost is None else f"{points_text(lost)} pt"])
        return aligned(rows)


def _heading(metric: str, output: str) -> str:
    return f"{metric_heading(metric)} of {output}" if output else metric_heading(metric)


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One of the two, opened.

    Attributes:
        said: As it is reported, without its metrics yet.
        signatures: The one that is asked first.
        labels: Class names; empty where there are none.
        preprocess: What makes its inputs of raw data; None for an original, which has none of its own.
        file: The variant's file; None for an original.
        variant: What its manifest says of that file; likewise.
        source: The original; None for a variant.
        ranges: Of a variant's inputs that have their preprocessing folded in, as of `VariantRunner`.
    """

    said: Compared
    signatures: tuple[Signature, ...]
    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    file: Path | None = None
    variant: Variant | None = None
    source: source.SourceModel | None = None
    ranges: dict[str, Range] = field(default_factory=dict)


def compare(
    first: Path,
    second: Path,
    *,
    data: DataSpec,
    variants: tuple[str, ...] = (),
    metrics: Mapping[str, str] | None = None,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    progress: Progress = silent,
    server: ForkServer | None = None,
) -> CompareResult:
    """Asks both the same samples, and measures the second's answers against the first's.

    Args:
        first: A package, or a model as a conversion takes it.
        second: A package.
        data: Evaluation data, as of a conversion. Samples that need preprocessing get each package's own; an original
            gets the second's.
        variants: Of the packages, in their order; those that they choose by default otherwise.
        metrics: By output name, how it is measured, as `topk:5`; see `metrics`.
        time_limit_s: For each step that runs in a child process.
        progress: Called as steps begin and end.
        server: Runs the child processes; one is started where none is given.

    Raises:
        BadInput: one of them can't be opened or run, their inputs or outputs differ, or the data do not fit.
        PackageError: a package is damaged.
        VariantUnusable: a variant can't be run, or answers nothing that can be compared.
    """
    if not is_package(second):
        hint = "give it first" if is_package(first) else "the second must be one"
        raise OptionInvalid(f"{second}: no package; {hint}")
    given = (is_package(first), True)
    if len(variants) > sum(given):
        raise OptionInvalid(f"variant: {len(variants)} are named for {count_text(sum(given), 'package')}")
    data_.check(data)
    names: list[str | None] = [None, None]
    for place, name in zip([index for index in (0, 1) if given[index]], variants, strict=False):
        names[place] = name
    preload = (_LITERT,) if given[0] else ("tensorflow", _LITERT)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(working_folder())
        work = _Work(
            server=server or stack.enter_context(ForkServer(preload)),
            folder=folder,
            time_limit_s=time_limit_s,
            counter=Counter(progress, total=4),
        )
        b = _packaged(second, stack.enter_context(opened(second)), names[1])
        a = (
            _packaged(first, stack.enter_context(opened(first)), names[0])
            if given[0]
            else work.original(first, b.signatures[0].name)
        )
        check_alike(a.said, a.signatures[0], b.said, b.signatures[0])
        return work.compared(a, b, data, metrics or {})


def is_package(path: Path) -> bool:
    """Whether it is a package's directory or an archive, and no model."""
    if path.is_dir():
        return (path / MANIFEST).is_file()
    return path.name.endswith((".tar.gz", ".tgz"))


def _packaged(path: Path, package: Package, name: str | None) -> _Side:
    manifest = package.manifest
    try:
        variant: Variant = manifest.variant(name or manifest.chosen["default"])
    except KeyError:
        known = ", ".join(one.name for one in manifest.variants)
        raise OptionInvalid(f"variant: {path} has no {name!r}; there are {known}") from None
    if variant.delegate != "cpu":
        raise OptionInvalid(f"variant: {variant.name} of {path} needs an Edge TPU: choose one that a CPU runs")
    return _Side(
        said=Compared(path=str(path), kind="package", variant=variant.name, size_bytes=variant.size_bytes),
        signatures=manifest.signatures,
        labels=manifest.labels,
        preprocess=manifest.preprocess,
        file=package.file(variant),
        variant=variant,
        ranges=_folded(variant, manifest.preprocess),
    )


def _folded(variant: Variant, preprocess: Preprocess) -> dict[str, Range]:
    bounds = {name: preprocess.inputs[name].folds_into_uint8() for name in variant.folded if name in preprocess.inputs}
    return {name: one for name, one in bounds.items() if one is not None}


def check_alike(a: Compared, first: Signature, b: Compared, second: Signature) -> None:
    """Refuses models that do not take the same inputs and give the same outputs, by name.

    Raises:
        OptionInvalid: it names both sides.
    """
    for kind, ours, theirs in (("inputs", first.inputs, second.inputs), ("outputs", first.outputs, second.outputs)):
        here, there = sorted(one.name for one in ours), sorted(one.name for one in theirs)
        if here != there:
            raise OptionInvalid(f"{a} has the {kind} {here}, {b} has {there}: they can't be compared")


@dataclass(frozen=True, kw_only=True)
class _Work:
    """The steps that run in child processes."""

    server: ForkServer
    folder: Path
    time_limit_s: float
    counter: Counter

    def _apart(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return self.server.run(function, self.time_limit_s, *args, **kwargs)

    def original(self, path: Path, signature: str) -> _Side:
        """Opens a model that is no package."""
        kind = source.check(path)
        self.counter.begin(f"reading {path}")
        task = source.SourceTask(
            path=path, kind=kind, signatures=(signature or DEFAULT_SIGNATURE,), folder=self.folder / "source"
        )
        with _unreadable(path):
            model = self._apart(source.prepare, task)
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        size_bytes = sum(one.stat().st_size for one in files)
        said = Compared(path=str(path), kind=kind, variant=None, size_bytes=size_bytes)
        return _Side(said=said, signatures=model.signatures, source=model)

    def compared(self, a: _Side, b: _Side, data: DataSpec, metrics: Mapping[str, str]) -> CompareResult:
        """Asks the first, measures the second."""
        self.counter.begin("reading the data")
        asked = self._dataset(a, b, data, "first")
        # Arrays are what the models take; images go through each one's own preprocessing.
        same = (a.preprocess or b.preprocess) == b.preprocess and a.signatures[0].inputs == b.signatures[0].inputs
        theirs = asked if same else self._dataset(b, a, data, "second")
        self.counter.end()
        self.counter.begin(f"running {a.said}")
        outputs = self._answers(a, asked)
        self.counter.end()
        reference = self._apart(
            make_reference,
            theirs,
            outputs,
            use_labels=True,
            metrics=dict(metrics),
            signature=b.signatures[0].name,
        )
        self.counter.begin(f"running {b.said}")
        measured = self._measured(b, reference)
        self.counter.end(steps=2)
        own = reference.metrics()
        found = {output: {name: measured.metrics[output][name] for name in mine} for output, mine in own.items()}
        return CompareResult(
            first=msgspec.structs.replace(a.said, metrics=own),
            second=msgspec.structs.replace(b.said, metrics=found),
            samples=theirs.samples,
            metrics=measured.metrics,
            outputs=measured.outputs,
            notes=(*_notes(a, b, theirs), *reference.notes),
        )

    def _dataset(self, side: _Side, other: _Side, data: DataSpec, role: str) -> Dataset:
        preprocess = side.preprocess or other.preprocess or Preprocess()
        folder = self.folder / f"data-{role}"
        return self._apart(data_.load, data, side.signatures[0], preprocess, folder, labels=side.labels or other.labels)

    def _answers(self, side: _Side, dataset: Dataset) -> dict[str, Path]:
        folder = self.folder / "answers"
        if side.source is not None:
            with _unreadable(Path(side.said.path)):
                return self._apart(source.answer, side.source, side.signatures[0], dataset, folder)
        assert side.file is not None
        assert side.variant is not None
        with _unusable(side.said):
            return self._apart(
                answer, side.file, side.signatures[0], dataset, folder, ranges=side.ranges, variant=side.variant
            )

    def _measured(self, side: _Side, reference: Any) -> Measured:
        assert side.file is not None
        assert side.variant is not None
        with _unusable(side.said):
            measured = self._apart(check_and_measure, side.file, side.signatures[:1], reference, side.ranges)
            check_declared(side.variant, measured.signatures)
        return measured


def answer(
    file: Path,
    signature: Signature,
    dataset: Dataset,
    folder: Path,
    *,
    ranges: Mapping[str, Range],
    variant: Variant,
) -> dict[str, Path]:
    """Runs a variant over the data; by output name, the `.npy` in `folder` with all values. Only in a child process.

    Raises:
        VariantUnusable: the file is not what the signature, or the manifest's variant, says.
    """
    runner = VariantRunner(file, signature, ranges=ranges)
    check_declared(variant, (runner.signature,))
    writer = OutputWriter(folder, [spec.name for spec in signature.outputs], dataset)
    for batch in dataset.batches():
        writer.add(batch, runner.run(batch.inputs))
    return writer.finish()


def _notes(a: _Side, b: _Side, dataset: Dataset) -> Iterator[str]:
    if dataset.labels_file is None:
        yield "The data hold no labels: the figures say how far both are from each other, and not which is right."
    if a.preprocess is not None and a.preprocess != b.preprocess:
        yield "Their preprocessing differs: encoded samples went through each one's own, arrays to both as they are."
    if b.signatures[1:]:
        yield f"Only signature {b.signatures[0].name!r} was compared."
    if a.labels and b.labels and a.labels != b.labels:
        yield "Their class names differ: the same class number may mean another thing in each."


@contextlib.contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """A process that fails on the original itself says something about the original."""
    try:
        yield
    except TaskFailed as error:
        raise SourceInvalid(f"{path}: the model can't be read or run: {error}") from error


@contextlib.contextmanager
def _unusable(said: Compared) -> Iterator[None]:
    """Says which of the two it is that does not run."""
    try:
        yield
    except (VariantUnusable, TaskFailed) as error:
        raise VariantUnusable(f"{said}: {error}") from error
