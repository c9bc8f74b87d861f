"""Opens a model of any kind: checks it, makes of it a SavedModel that can be lowered, asks the original.

`check` and `digest` run anywhere; `prepare` and `answer` load TensorFlow, so they run in a child process.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from converter.artifact import VARIABLE, Signature
from converter.data import Dataset
from converter.errors import OperatorsUnsupported, SourceInvalid
from converter.sources import batch_functions, keras_model, saved_model, tensor_lists
from converter.sources.graphs import serve_graph, unrestored
from converter.sources.kinds import Kind, check, digest
from converter.sources.operators import UnsupportedOperator, check_graph, describe
from converter.sources.shapes import Shapes, resolve, with_batch
from converter.sources.specialize import specialize

__all__ = ["Kind", "SourceModel", "SourceTask", "answer", "check", "check_operators", "digest", "prepare"]


@dataclass(frozen=True, kw_only=True)
class SourceTask:
    """What to open. Picklable.

    Attributes:
        path: The SavedModel's directory or the Keras file.
        kind: As of `check`.
        signatures: The ones to convert, in this order.
        shapes: By input name, the dimensions to fix; -1 keeps one variable.
        custom_objects: `module:name` for a Keras file; empty for none.
        folder: Where what is made on the way lies; must last as long as the `SourceModel` is used.
    """

    path: Path
    kind: Kind
    signatures: tuple[str, ...]
    folder: Path
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    custom_objects: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """A model that was opened. Picklable.

    Attributes:
        format: As of `check`.
        saved_model: What is lowered.
        original: The SavedModel that gives the reference answers; takes what `signatures` takes.
        signatures: In the order asked for; their inputs and outputs sorted by name.
        tensorflow: The version of TensorFlow that read it.
        single_batch_lists: Whether lowering must take the batch in tensor lists for one, see `tensor_lists`.
        max_rows: How many samples the original takes in one call; None for any number.
        notes: What was changed on the way, a sentence each.
    """

    format: Kind
    saved_model: Path
    original: Path
    signatures: tuple[Signature, ...]
    tensorflow: str
    single_batch_lists: bool = False
    max_rows: int | None = None
    notes: tuple[str, ...] = ()


_SAVED_AGAIN = (
    "the model was saved again: its graph does not find its own weights, as when tf.saved_model.save is given a "
    "Keras 3 model (model.export is what Keras 3 has for this)"
)


_ONE_ROW = (
    "the batch is fixed at 1: the model has loops over steps (as LSTM and GRU layers do), which LiteRT runs with a "
    "fixed batch only"
)


class _Reshape(Protocol):
    def __call__(self, shapes: Shapes, folder: Path) -> tuple[Signature, ...]:
        """Writes the model to `folder` with these input shapes; its signatures then, in the order of `shapes`."""


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A source that can be written as a SavedModel with other shapes.

    Attributes:
        base: A SavedModel of it, with the model's own shapes.
        original: As of `SourceModel`, like the next two.
        max_rows: Likewise.
        notes: Likewise.
        reshape: Writes it with other shapes.
    """

    base: Path
    original: Path
    max_rows: int | None
    notes: tuple[str, ...]
    reshape: _Reshape


@dataclass(frozen=True, kw_only=True)
class _Lowered:
    """What is to be lowered, so far; as of `SourceModel`."""

    path: Path
    signatures: tuple[Signature, ...]
    single_batch_lists: bool = False
    notes: tuple[str, ...] = ()


def prepare(task: SourceTask) -> SourceModel:
    """Opens the model; what is lowered from it later has the shapes that were asked for.

    Raises:
        SourceInvalid: it can't be read, or lacks a signature (the known are listed).
        OptionInvalid: a shape or custom object does not fit; the message names both sides.
        ToolMissing: it was written by Keras 2, and tf_keras is not installed.
        OperatorsUnsupported: it has operators that can't be lowered whatever is done, as of `check_operators`.
    """
    import tensorflow as tf  # noqa: PLC0415  only in a child

    opened = _open_saved_model(task) if task.kind == "saved_model" else _open_keras(task)
    found = saved_model.declared(opened.base, task.signatures)
    if lacking := check_graph(opened.base, task.signatures):
        # Before it is run: what TensorFlow says of an operator that it does not know is less clear.
        raise OperatorsUnsupported(describe(lacking))
    own = {one.name: {spec.name: spec.shape for spec in one.inputs} for one in found}
    shapes = resolve(task.shapes, {one.name: one.inputs for one in found})
    lost = unrestored(serve_graph(opened.base), task.signatures)
    # Of several signatures, TensorFlow's converter drops some without a word; of a model that was saved anew, none.
    if shapes == own and not lost and len(found) == 1 and not found[0].unranked:
        signature = saved_model.signature_of(opened.base, found[0])
        lowered = _Lowered(path=opened.base, signatures=(signature,))
    else:
        folder = task.folder / "reshaped"
        notes = (_SAVED_AGAIN,) if lost else ()
        lowered = _Lowered(path=folder, signatures=opened.reshape(shapes, folder), notes=notes)
    if tensor_lists.lists(lowered.path, task.signatures):
        lowered = _with_lists(task, opened, shapes, lowered)
    return SourceModel(
        format=task.kind,
        saved_model=lowered.path,
        original=opened.original,
        signatures=lowered.signatures,
        tensorflow=str(tf.__version__),
        single_batch_lists=lowered.single_batch_lists,
        max_rows=opened.max_rows,
        notes=opened.notes + lowered.notes,
    )


def _open_saved_model(task: SourceTask) -> _Opened:
    inlined = batch_functions.inline(task.path, task.folder / "inlined")
    notes: tuple[str, ...] = ()
    if inlined.count:
        notes = (
            f"{inlined.count} BatchFunction (batching for a server, which LiteRT has not) replaced by what is batched",
        )

    def reshape(shapes: Shapes, folder: Path) -> tuple[Signature, ...]:
        return specialize(inlined.path, shapes, folder)

    return _Opened(base=inlined.path, original=task.path, max_rows=inlined.max_rows, notes=notes, reshape=reshape)


def _open_keras(task: SourceTask) -> _Opened:
    kind: Literal["keras", "hdf5"] = "keras" if task.kind == "keras" else "hdf5"
    model = keras_model.load(task.path, kind, task.custom_objects)
    base = task.folder / "exported"
    model.export(base)

    def reshape(shapes: Shapes, folder: Path) -> tuple[Signature, ...]:
        # Traced anew, so that the layers see the sizes too: recurrent ones then make lists of static elements.
        model.export(folder, shapes[keras_model.SIGNATURE])
        return tuple(saved_model.signature_of(folder, one) for one in saved_model.declared(folder, shapes))

    return _Opened(base=base, original=base, max_rows=None, notes=model.notes, reshape=reshape)


def _with_lists(task: SourceTask, opened: _Opened, shapes: Shapes, lowered: _Lowered) -> _Lowered:
    """The same, with a batch of one where the model's tensor lists convert with no other."""
    if tensor_lists.try_lowering(lowered.path, lowered.signatures) != "single_batch":
        return lowered
    variable = [name for name, one in shapes.items() if any(shape[:1] == (VARIABLE,) for shape in one.values())]
    notes = lowered.notes
    if variable:
        folder = task.folder / "one_row"
        lowered = _Lowered(path=folder, signatures=opened.reshape(with_batch(shapes, variable, 1), folder))
        notes += (_ONE_ROW,)
        if tensor_lists.try_lowering(lowered.path, lowered.signatures) != "single_batch":
            return replace(lowered, notes=notes)
    if tensor_lists.try_lowering(lowered.path, lowered.signatures, single_batch=True) == "single_batch":
        text = "; ".join(
            f"{name}={','.join(map(str, shape))}" for one in shapes.values() for name, shape in one.items()
        )
        raise SourceInvalid(
            f"{task.path}: has loops over steps (as LSTM and GRU layers do), which LiteRT runs with these shapes not: "
            f"{text}; give a first dimension of 1, or the Keras file (.keras, .h5) in place of the SavedModel"
        )
    return replace(lowered, single_batch_lists=True, notes=notes)


def check_operators(source: SourceModel) -> tuple[UnsupportedOperator, ...]:
    """What of the model can't be lowered whatever is done, as of `operators.check_graph`; quick."""
    return check_graph(source.saved_model, [signature.name for signature in source.signatures])


def answer(source: SourceModel, signature: Signature, dataset: Dataset, folder: Path) -> dict[str, Path]:
    """Runs the original over the data, on one thread; by output name, the `.npy` in `folder` with all values.

    Raises:
        SourceInvalid: it can't be loaded, or fails on the data.
    """
    return saved_model.answer(source.original, signature, dataset, folder, source.max_rows)
