"""What kind of model lies at a path, without TensorFlow; what can't be converted is refused with what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from converter.artifact.digest import file_entry, tree_digest
from converter.artifact.placing import STAGING_PREFIX
from converter.errors import SourceInvalid
from converter.into import EXTRA_ASSETS
from converter.sources.graphs import MODEL_FILES
from converter.sources.saved_model import check_directory

Kind = Literal["saved_model", "keras", "hdf5"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_TFLITE = b"TFL3"
_LAID_INTO = (f"{EXTRA_ASSETS.as_posix()}/", f"{EXTRA_ASSETS.parent.as_posix()}/{STAGING_PREFIX}")
_FOREIGN = {".onnx": "ONNX", ".pt": "PyTorch", ".pth": "PyTorch", ".safetensors": "safetensors", ".mlmodel": "Core ML"}
_CHECKPOINT = (
    "is a checkpoint, which has weights but no graph: export the model as a SavedModel "
    "(tf.saved_model.save, or Keras' model.export)"
)


def check(path: Path) -> Kind:
    """What kind of model it is, without TensorFlow.

    Raises:
        SourceInvalid: there is nothing, or an empty directory, a checkpoint, a frozen graph, a TFLite file, weights
            without a model, or anything else that can't be converted; the message says what to do.
    """
    if path.is_dir():
        check_directory(path)
        return "saved_model"
    if not path.exists():
        if path.with_name(f"{path.name}.index").is_file():
            raise SourceInvalid(f"{path}: {_CHECKPOINT}")
        raise SourceInvalid(f"{path}: no such directory")
    return _check_file(path)


def _check_file(path: Path) -> Kind:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise SourceInvalid(f"{path}: can't be read: {error.strerror or error}") from error
    if head == _HDF5:
        if path.name.endswith(".weights.h5"):
            raise SourceInvalid(f"{path}: holds weights and no model; save the whole model (model.save)")
        return "hdf5"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if {"config.json", "metadata.json"} <= set(archive.namelist()):
                return "keras"
    raise SourceInvalid(f"{path}: {_what_it_is(path, head)}")


def _what_it_is(path: Path, head: bytes) -> str:
    name, suffix = path.name, path.suffix.lower()
    says = "is no model that can be converted: a SavedModel's directory, a .keras, .h5 or .hdf5 file is needed"
    if head[4:8] == _TFLITE or suffix == ".tflite":
        says = "is a TFLite file already; `edge-convert wrap` makes a package of it"
    elif name in MODEL_FILES:
        says = f"is a part of a SavedModel; give its directory, {path.parent}"
    elif name == "checkpoint" or suffix in (".index", ".ckpt") or ".data-" in name:
        says = _CHECKPOINT
    elif suffix in (".pb", ".pbtxt"):
        says = (
            "is a frozen graph, which does not say what its inputs and outputs are: load it with "
            "tf.compat.v1.wrap_function and save it with tf.saved_model.save"
        )
    elif suffix in (".keras", ".h5", ".hdf5"):
        says = f"is damaged: no file of Keras begins with {head[:4]!r}" if head else "is empty"
    elif suffix in _FOREIGN:
        says = f"is of another framework ({_FOREIGN[suffix]}); convert it to a SavedModel first"
    return says


def digest(path: Path, kind: Kind) -> str:
    """`sha256:` and the digest of the file, or one over all files of the SavedModel.

    A package that was laid into the SavedModel's directory is no part of the model: laying it there, or another one
    later, must not make another model of it.
    """
    return tree_digest(path, without=_LAID_INTO) if kind == "saved_model" else f"sha256:{file_entry(path).sha256}"
