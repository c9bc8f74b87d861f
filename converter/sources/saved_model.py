"""Reads a TensorFlow SavedModel: what its signatures are, and what it answers.

`check_directory` runs anywhere; the other functions load TensorFlow, so they run in a child process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.artifact import VARIABLE, ManifestInvalid, Signature, TensorSpec
from converter.data import Batch, Dataset
from converter.errors import SourceInvalid, ToolMissing
from converter.outputs import OutputWriter
from converter.sources.graphs import MODEL_FILES, SERVE_TAG, serve_graph
from converter.sources.messages import said

INTERNAL_SIGNATURES = frozenset({"__saved_model_init_op", "__saved_model_train_op"})


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A signature as the SavedModel describes it.

    Attributes:
        name: Its key.
        inputs: Sorted by name.
        outputs: Sorted by name, but for those in `unranked`.
        unranked: The outputs whose number of dimensions the SavedModel does not say, with their dtypes.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    unranked: dict[str, str]


def check_directory(path: Path) -> None:
    """Refuses a directory that is plainly no SavedModel, before TensorFlow is loaded.

    Raises:
        SourceInvalid: nothing there, a file, an empty directory, a checkpoint, or anything else.
    """
    if not path.exists():
        raise SourceInvalid(f"{path}: no such directory")
    if not path.is_dir():
        raise SourceInvalid(f"{path}: a file; a SavedModel is a directory with {MODEL_FILES[0]}")
    if any((path / name).is_file() for name in MODEL_FILES):
        return
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        raise SourceInvalid(f"{path}: the directory is empty; a SavedModel holds {MODEL_FILES[0]}")
    if "checkpoint" in names or any(name.endswith(".index") for name in names):
        raise SourceInvalid(
            f"{path}: holds a checkpoint, which has weights but no graph: export the model as a SavedModel "
            "(tf.saved_model.save, or Keras' model.export)"
        )
    inside = [name for name in names if any((path / name / file).is_file() for file in MODEL_FILES)]
    hint = f"; did you mean {path / inside[-1]}?" if inside else ""
    raise SourceInvalid(f"{path}: no SavedModel, it holds no {MODEL_FILES[0]}{hint}")


def declared(path: Path, names: Iterable[str]) -> tuple[Declared, ...]:
    """The signatures of those names, straight from the SavedModel's own description.

    Raises:
        SourceInvalid: the file can't be parsed, has no `serve` graph, or no such signature (the known are listed), or
            a tensor is not a plain one.
    """
    graph = serve_graph(path)
    known = sorted(set(graph.signature_def) - INTERNAL_SIGNATURES)
    found = []
    for name in names:
        if name not in known:
            raise SourceInvalid(f"{path}: no signature {name!r}; it has: {', '.join(known) or 'none'}")
        definition = graph.signature_def[name]
        inputs, rankless = _specs(path, definition.inputs)
        if rankless:
            raise SourceInvalid(
                f"{path}: input {min(rankless)!r} has no known rank; export the model with an input signature"
            )
        outputs, unranked = _specs(path, definition.outputs)
        found.append(Declared(name=name, inputs=inputs, outputs=outputs, unranked=unranked))
    return tuple(found)


def _specs(path: Path, tensors: Mapping[str, Any]) -> tuple[tuple[TensorSpec, ...], dict[str, str]]:
    """The specs of the tensors that have a rank, and the dtypes of those without, by name."""
    import tensorflow as tf  # noqa: PLC0415  only in a child

    specs, unranked = [], {}
    for name, info in sorted(tensors.items()):
        if info.WhichOneof("encoding") != "name":
            raise SourceInvalid(f"{path}: tensor {name!r} is sparse or ragged, which LiteRT has not; export dense ones")
        dtype = tf.dtypes.as_dtype(info.dtype).name
        if info.tensor_shape.unknown_rank:
            unranked[name] = dtype
            continue
        shape = tuple(VARIABLE if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)
        try:
            specs.append(TensorSpec(name=name, dtype=dtype, shape=shape))
        except ManifestInvalid as error:
            raise SourceInvalid(f"{path}: {error}") from error
    return tuple(specs), unranked


def signature_of(path: Path, one: Declared) -> Signature:
    """The signature, where every output has a rank.

    Raises:
        SourceInvalid: an output has none, or there is no input or output at all.
    """
    if one.unranked:
        raise SourceInvalid(
            f"{path}: output {min(one.unranked)!r} has no known rank; export the model with an input signature"
        )
    try:
        return make_signature(one.name, one.inputs, one.outputs)
    except ManifestInvalid as error:
        raise SourceInvalid(f"{path}: {error}") from error


def make_signature(name: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> Signature:
    """Sorted by name; the first axis is the batch axis where it is variable in every input and output."""
    ins, outs = (tuple(sorted(specs, key=lambda spec: spec.name)) for specs in (inputs, outputs))
    batched = all(spec.shape[:1] == (VARIABLE,) for spec in (*ins, *outs))
    return Signature(name=name, inputs=ins, outputs=outs, batch_axis=0 if batched else None)


def load(path: Path) -> Any:
    """The loaded SavedModel; its signatures are callables.

    Raises:
        ToolMissing: a SavedModel of Keras 2 with its optimizer needs tf_keras, and it is not installed.
        Exception: whatever TensorFlow raises where it can't be loaded.
    """
    import tensorflow as tf  # noqa: PLC0415  only in a child

    try:
        return tf.saved_model.load(str(path), tags=[SERVE_TAG])
    except AttributeError as error:
        # TensorFlow takes the optimizers of Keras 2 from tf_keras where it finds that, and else stumbles over them.
        if error.name == "add_slot" or "add_slot" in str(error):
            raise ToolMissing(
                f"{path}: was saved by Keras 2 with its optimizer, which needs tf_keras (pip install tf_keras)"
            ) from error
        raise


def answer(
    path: Path, signature: Signature, dataset: Dataset, folder: Path, max_rows: int | None = None
) -> dict[str, Path]:
    """Runs the SavedModel over the data; by output name, the `.npy` file in `folder` with all samples' values.

    Args:
        path: The SavedModel.
        signature: One of its signatures, or one that fixes dimensions of it.
        dataset: Fits the signature.
        folder: Is made.
        max_rows: The most samples that it takes in one call.

    Raises:
        SourceInvalid: it can't be loaded, or fails on the data.
    """
    import tensorflow as tf  # noqa: PLC0415  only in a child

    # Sums that several threads share come out different in the last bits, now and then, and the package must not.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        function = load(path).signatures[signature.name]
        writer = OutputWriter(folder, [spec.name for spec in signature.outputs], dataset)
        for batch in _split(dataset.batches(), max_rows):
            found = function(**{name: tf.constant(values) for name, values in batch.inputs.items()})
            writer.add(batch, {name: _array(found[name]) for name in writer.names})
    except ToolMissing:
        raise
    except Exception as error:
        raise SourceInvalid(f"{path}: the model itself fails on the data: {said(error)}") from error
    return writer.finish()


def _split(batches: Iterable[Batch], max_rows: int | None) -> Iterator[Batch]:
    for batch in batches:
        rows = max_rows or batch.samples
        if batch.samples <= rows:
            yield batch
            continue
        for start in range(0, batch.samples, rows):
            inputs = {name: values[start : start + rows] for name, values in batch.inputs.items()}
            samples = min(rows, batch.samples - start)
            yield Batch(start=batch.start + start, samples=samples, inputs=inputs)


def _array(tensor: Any) -> npt.NDArray[np.generic]:
    array: npt.NDArray[np.generic] = np.asarray(tensor.numpy())
    return array
