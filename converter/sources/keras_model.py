"""Reads Keras' own files, `.keras` and HDF5, and exports them as SavedModels.

A file is read by the Keras that wrote it: version 3 by `keras`, version 1 and 2 by `tf_keras`. All but `written_by`
loads TensorFlow, and loading a model runs what is in it: in a child process.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from converter.artifact import VARIABLE
from converter.errors import SourceInvalid, ToolMissing
from converter.sources import custom_objects
from converter.sources.messages import said
from converter.sources.shapes import Shape

SIGNATURE = "serving_default"

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]")


@dataclass(frozen=True, kw_only=True)
class KerasModel:
    """A loaded model.

    Attributes:
        path: Its file.
        model: The Keras object.
        inputs: By the name in the signature, Keras' own tensors, in the model's order.
        outputs: The names of the outputs, in the model's order.
        keras: The module that read it.
        notes: What to tell the user.
    """

    path: Path
    model: Any
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    keras: Any
    notes: tuple[str, ...]

    def export(self, folder: Path, shapes: Mapping[str, Shape] | None = None) -> None:
        """Writes a SavedModel with the signature `serving_default`: inputs and outputs by their names.

        Args:
            folder: Is made.
            shapes: By input name, what shape it is to have, -1 for variable; else the model's own.

        Raises:
            SourceInvalid: the model can't be traced.
        """
        import tensorflow as tf  # noqa: PLC0415  only in a child

        specs = {}
        for name, tensor in self.inputs.items():
            shape = list(tensor.shape) if shapes is None else [None if dim == VARIABLE else dim for dim in shapes[name]]
            specs[name] = tf.TensorSpec(shape, _dtype(tensor), name=name)
        module = tf.Module()
        try:
            function = tf.function(self._call).get_concrete_function(**specs)
            # Not the model itself: TensorFlow's converter finds other weights for one of Keras 3 that is tracked whole.
            module.weights = list(function.variables)
            module.tables = self._tables()
            tf.saved_model.save(module, str(folder), signatures={SIGNATURE: function})
        except Exception as error:
            raise SourceInvalid(f"{self.path}: can't be exported as a SavedModel: {said(error)}") from error

    def _tables(self) -> list[Any]:
        """The hash tables of layers that look words up, which go with the model as weights do."""
        layers = self.model._flatten_layers()  # noqa: SLF001  no other way reaches the layers in layers
        return [layer.lookup_table for layer in layers if getattr(layer, "lookup_table", None) is not None]

    def _call(self, **inputs: Any) -> dict[str, Any]:
        """What is traced: runs the model as in inference."""
        import tensorflow as tf  # noqa: PLC0415  only in a child

        flat = [inputs[name] for name in self.inputs]
        found = self.model(_packed(self.model, flat), training=False)
        if isinstance(found, Mapping) and set(found) == set(self.outputs):
            return dict(found)
        return dict(zip(self.outputs, tf.nest.flatten(found), strict=True))


def load(path: Path, kind: Literal["keras", "hdf5"], objects: str) -> KerasModel:
    """Reads a model's file.

    Args:
        path: The file.
        kind: What it is.
        objects: `module:name` of its custom objects, see `custom_objects`.

    Raises:
        SourceInvalid: it holds weights only, is damaged, needs custom objects that were not given, or has no inputs.
        OptionInvalid: the custom objects can't be found.
        ToolMissing: tf_keras wrote it, and is not installed.
    """
    found = custom_objects.load(objects)
    version = written_by(path, kind)
    keras = _keras(path, version)
    try:
        model = keras.models.load_model(str(path), custom_objects=found, compile=False)
    except Exception as error:
        raise SourceInvalid(f"{path}: Keras {keras.__version__} can't read it: {_reason(error)}") from error
    notes = [f"written by Keras {version}, read by {keras.__name__} {keras.__version__}"]
    tensors = list(getattr(model, "inputs", None) or [])
    if not tensors:
        raise SourceInvalid(
            f"{path}: the model does not say what its inputs are (a subclass of Model without a functional graph); "
            "export it as a SavedModel where its class is: model.export(...)"
        )
    own = [str(name) for name in getattr(model, "input_names", None) or [tensor.name for tensor in tensors]]
    names = _clean(own)
    notes += [f"input {old!r} is called {new!r}" for old, new in zip(own, names, strict=True) if old != new]
    outputs = _output_names(model)
    return KerasModel(
        path=path,
        model=model,
        inputs=dict(zip(names, tensors, strict=True)),
        outputs=outputs,
        keras=keras,
        notes=tuple(notes),
    )


def written_by(path: Path, kind: Literal["keras", "hdf5"]) -> str:
    """The version of Keras that wrote the file: `3.15.0`, `2.13.1`; `1` where it does not say.

    Raises:
        SourceInvalid: the file can't be read, or holds no model but weights.
    """
    try:
        return _zip_version(path) if kind == "keras" else _hdf5_version(path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SourceInvalid(f"{path}: is damaged: {said(error)}") from error


def _zip_version(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return str(json.loads(archive.read("metadata.json"))["keras_version"])


def _hdf5_version(path: Path) -> str:
    h5py: Any = importlib.import_module("h5py")  # comes with TensorFlow
    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise SourceInvalid(
                f"{path}: holds weights and no model; save the whole model (model.save), or export it as a SavedModel"
            )
        version = file.attrs.get("keras_version", "1")
        return version.decode() if isinstance(version, bytes) else str(version)


def _keras(path: Path, version: str) -> Any:
    """The module that reads files of this version."""
    # Keras 3 runs on other libraries too, where it can't write SavedModels; it looks at this when it is imported.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if version.split(".", 1)[0] not in ("1", "2"):
        return importlib.import_module("keras")
    try:
        return importlib.import_module("tf_keras")
    except ImportError as error:
        raise ToolMissing(
            f"{path}: was written by Keras {version}, which tf_keras reads (pip install tf_keras)"
        ) from error


_NOT_FOUND = re.compile(r"Could not locate (?:class|function) '[^']+'|Unknown (?:layer|\w+ function|\w+): '?[\w>]+'?")


def _reason(error: Exception) -> str:
    """What failed, and what the user can do about it."""
    if missing := _NOT_FOUND.search(str(error)):
        return f"{missing[0]}; custom layers and functions are given as --custom-objects module:name"
    if "lambda" in str(error).lower():
        return f"{said(error)}; a Lambda layer holds Python code: export the model as a SavedModel where it was made"
    return said(error)


def _output_names(model: Any) -> tuple[str, ...]:
    """The keys of a dict of outputs, or else the names of the layers that give them."""
    for attribute in ("_outputs_struct", "_nested_outputs"):
        structure = getattr(model, attribute, None)
        if isinstance(structure, Mapping):
            return tuple(_clean(sorted(map(str, structure))))
    outputs = list(model.outputs)
    names = list(getattr(model, "output_names", None) or [f"output_{index}" for index in range(len(outputs))])
    return tuple(_clean([str(name) for name in names]))


def _clean(names: Sequence[str]) -> list[str]:
    """Names that TensorFlow takes as they are, all different."""
    made: list[str] = []
    for name in names:
        plain = _NOT_IN_NAMES.sub("_", name) or "_"
        plain = plain if not plain[0].isdigit() else f"_{plain}"
        alone, number = plain, 1
        while alone in made:
            alone, number = f"{plain}_{number}", number + 1
        made.append(alone)
    return made


def _packed(model: Any, flat: list[Any]) -> Any:
    """The inputs in the nesting that the model was made with."""
    import tensorflow as tf  # noqa: PLC0415  only in a child

    for attribute in ("_inputs_struct", "_nested_inputs"):
        structure = getattr(model, attribute, None)
        if structure is not None:
            return tf.nest.pack_sequence_as(structure, flat)
    return flat[0] if len(flat) == 1 else flat


def _dtype(tensor: Any) -> Any:
    import tensorflow as tf  # noqa: PLC0415  only in a child

    return tf.dtypes.as_dtype(tensor.dtype)
