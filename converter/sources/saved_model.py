"""Reads a TensorFlow SavedModel: what its signatures are, and what it answers.

`check_directory` and `digest` run anywhere; the other functions load TensorFlow, so they run in a child process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.artifact import VARIABLE, ManifestInvalid, Signature, TensorSpec
from converter.artifact.digest import tree_digest
from converter.data import Dataset
from converter.errors import SourceInvalid
from converter.outputs import OutputWriter

FORMAT = "saved_model"
SERVE_TAG = "serve"
MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
INTERNAL_SIGNATURES = frozenset({"__saved_model_init_op", "__saved_model_train_op"})


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """What was read of a SavedModel.

    Attributes:
        signature: The one that was asked for; inputs and outputs sorted by name.
        tensorflow: The version of TensorFlow that read it.
    """

    signature: Signature
    tensorflow: str


def check_directory(path: Path) -> None:
    """Refuses what is plainly no SavedModel, before TensorFlow is loaded.

    Raises:
        SourceInvalid: nothing there, an empty directory, a checkpoint, or another kind of file.
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


def digest(path: Path) -> str:
    """`sha256:` and one digest over all files of the SavedModel."""
    return tree_digest(path)


def read(path: Path, signature_name: str) -> SourceModel:
    """The signature of that name, straight from the SavedModel's own description.

    Raises:
        SourceInvalid: the file can't be parsed, has no `serve` graph, or no such signature (the known are listed).
    """
    import tensorflow as tf  # noqa: PLC0415  only in a child

    graph = _serve_graph(path)
    known = sorted(set(graph.signature_def) - INTERNAL_SIGNATURES)
    if signature_name not in known:
        listed = ", ".join(known) or "none"
        raise SourceInvalid(f"{path}: no signature {signature_name!r}; it has: {listed}")
    definition = graph.signature_def[signature_name]
    try:
        signature = make_signature(signature_name, _specs(definition.inputs), _specs(definition.outputs))
    except ManifestInvalid as error:
        raise SourceInvalid(f"{path}: signature {signature_name!r}: {error}") from error
    return SourceModel(signature=signature, tensorflow=str(tf.__version__))


def make_signature(name: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> Signature:
    """Sorted by name; the first axis is the batch axis where it is variable in every input and output."""
    ins, outs = (tuple(sorted(specs, key=lambda spec: spec.name)) for specs in (inputs, outputs))
    batched = all(spec.shape[:1] == (VARIABLE,) for spec in (*ins, *outs))
    return Signature(name=name, inputs=ins, outputs=outs, batch_axis=0 if batched else None)


def _serve_graph(path: Path) -> Any:
    from google.protobuf import text_format  # noqa: PLC0415  only in a child
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    model = saved_model_pb2.SavedModel()
    binary, text = (path / name for name in MODEL_FILES)
    try:
        if binary.is_file():
            model.ParseFromString(binary.read_bytes())
        else:
            text_format.Parse(text.read_text("utf-8"), model)
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise SourceInvalid(f"{path}: the SavedModel is damaged: {error}") from error
    for graph in model.meta_graphs:
        if set(graph.meta_info_def.tags) == {SERVE_TAG}:
            return graph
    tags = "; ".join(",".join(sorted(graph.meta_info_def.tags)) or "no tag" for graph in model.meta_graphs)
    raise SourceInvalid(f"{path}: no graph tagged {SERVE_TAG!r}; it has: {tags or 'no graph'}")


def _specs(tensors: Mapping[str, Any]) -> list[TensorSpec]:
    import tensorflow as tf  # noqa: PLC0415  only in a child

    specs = []
    for name, info in tensors.items():
        if info.tensor_shape.unknown_rank:
            raise SourceInvalid(f"tensor {name!r} has no known rank; export the model with an input signature")
        shape = tuple(VARIABLE if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)
        specs.append(TensorSpec(name=name, dtype=tf.dtypes.as_dtype(info.dtype).name, shape=shape))
    return specs


def answer(path: Path, signature: Signature, dataset: Dataset, folder: Path) -> dict[str, Path]:
    """Runs the SavedModel over the data; by output name, the `.npy` file in `folder` with all samples' values.

    Raises:
        SourceInvalid: it can't be loaded, or fails on the data.
    """
    import tensorflow as tf  # noqa: PLC0415  only in a child

    # Sums that several threads share come out different in the last bits, now and then, and the package must not.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        model = tf.saved_model.load(str(path), tags=[SERVE_TAG])
        function = model.signatures[signature.name]
        writer = OutputWriter(folder, [spec.name for spec in signature.outputs], dataset)
        for batch in dataset.batches():
            found = function(**{name: tf.constant(values) for name, values in batch.inputs.items()})
            writer.add(batch, {name: _array(found[name]) for name in writer.names})
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0]
        raise SourceInvalid(
            f"{path}: the SavedModel itself fails on the data: {type(error).__name__}: {first}"
        ) from error
    return writer.finish()


def _array(tensor: Any) -> npt.NDArray[np.generic]:
    array: npt.NDArray[np.generic] = np.asarray(tensor.numpy())
    return array
