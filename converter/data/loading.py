"""Which kind of source data come from, and who reads it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from converter.artifact import Preprocess, Signature
from converter.config import DataSpec
from converter.data import functions, images, tfrecord
from converter.data.dataset import MAX_SAMPLES, Dataset
from converter.data.npz import load_npz
from converter.data.samples import SampleWriter
from converter.errors import DataInvalid
from converter.named_functions import is_named

Kind = Literal["npz", "images", "tfrecord", "function"]

_KINDS = "a .npz, a directory of images, a TFRecord or module:function is needed"


def check(spec: DataSpec) -> None:
    """Refuses what is plainly none of the kinds of data, before anything slow begins.

    Raises:
        DataInvalid: nothing there, an empty directory, or a file of another kind.
    """
    kind = kind_of(spec)
    if kind == "images":
        images.listed(Path(spec))


def kind_of(spec: DataSpec) -> Kind:
    """What the data are, by the first bytes of a file and not by its name.

    Raises:
        DataInvalid: nothing there, or a file of another kind.
    """
    path = Path(spec)
    if path.is_dir():
        return "images"
    if path.is_file():
        if zipfile.is_zipfile(path):
            return "npz"
        if tfrecord.is_tfrecord(path):
            return "tfrecord"
        raise DataInvalid(f"{path}: no .npz and no TFRecord; {_KINDS}")
    if isinstance(spec, str) and is_named(spec):
        return "function"
    raise DataInvalid(f"{spec}: no such file or directory; {_KINDS}")


def load(
    spec: DataSpec,
    signature: Signature,
    preprocess: Preprocess,
    folder: Path,
    *,
    labels: tuple[str, ...] = (),
    use_labels: bool = True,
    max_samples: int = MAX_SAMPLES,
) -> Dataset:
    """Reads the data, checks them against the signature and lays them out in `folder`. Only in a child process.

    Args:
        spec: A file or directory, or `module:function`; the kinds are described in `converter.data`.
        signature: What the model takes.
        preprocess: What makes inputs of encoded images and the like; arrays are never sent through it.
        folder: Where to; it is made.
        labels: The package's class names, by which the subfolders of images are numbered where all are among them.
        use_labels: Whether the subfolders of images are classes. Calibration needs none.
        max_samples: How many samples are taken at most; more are refused, not cut off.

    Raises:
        DataInvalid: the data can't be read or don't fit the model; the message names the sample and its file.
        OptionInvalid: the function can't be found.
    """
    kind = kind_of(spec)
    if kind == "npz":
        return load_npz(Path(spec), signature, folder, max_samples=max_samples)
    with SampleWriter(str(spec), signature, preprocess, folder, max_samples=max_samples) as writer:
        if kind == "images":
            images.read(Path(spec), labels, writer, use_labels=use_labels)
        elif kind == "tfrecord":
            tfrecord.read(Path(spec), writer)
        else:
            functions.read(str(spec), writer)
        return writer.finish()
