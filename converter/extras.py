"""Class names and preprocessing, which travel inside the package."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from converter.artifact import VARIABLE, InputPreprocess, ManifestInvalid, Preprocess, Signature, TensorSpec
from converter.artifact.preprocess_images import CHANNELS
from converter.artifact.preprocess_shapes import misfit
from converter.errors import DataInvalid

MAX_TEXT_BYTES = 16 * 2**20
"""Such files hold names and numbers; a larger one was given by mistake."""


def read_labels(path: Path, signatures: Signature | Sequence[Signature]) -> tuple[str, ...]:
    """The class names, one a line; empty lines at the end don't count.

    Args:
        path: The text file.
        signatures: One or several; the names are those of an output of any of them.

    Raises:
        DataInvalid: no readable text, an empty line between names, or no output has as many classes.
    """
    labels = tuple(line.strip() for line in _read_text(path).rstrip().split("\n"))
    if "" in labels:
        raise DataInvalid(f"{path}: line {labels.index('') + 1} is empty; one class name a line is needed")
    outputs = [spec for signature in _several(signatures) for spec in signature.outputs]
    sizes = {spec.name: spec.shape[-1] for spec in outputs if spec.shape}
    every = {spec.shape[-1] for spec in outputs if spec.shape}
    if len(labels) not in every and VARIABLE not in every:
        raise DataInvalid(f"{path}: {len(labels)} class names; the outputs' last axes have {sizes}")
    return labels


def read_preprocess(path: Path, signatures: Signature | Sequence[Signature]) -> Preprocess:
    """The preprocessing in a TOML file: tables `[inputs.NAME]` with the fields of `InputPreprocess`.

    Args:
        path: The file.
        signatures: One or several; an input that several of them have is held against each.

    Raises:
        DataInvalid: no readable TOML, an unknown input or key, a value out of its bounds, or one that does not fit the
            input's shape or dtype; with the file, the key and both values.
    """
    try:
        preprocess = msgspec.convert(tomllib.loads(_read_text(path)), Preprocess)
    except (ValueError, ManifestInvalid) as error:  # Both libraries' are ValueErrors, and so is a number without end.
        raise DataInvalid(f"{path}: {error}") from error
    except RecursionError as error:
        raise DataInvalid(f"{path}: nested too deep to be preprocessing") from error
    specs = [spec for signature in _several(signatures) for spec in signature.inputs]
    known = {spec.name for spec in specs}
    for name in preprocess.inputs:
        if name not in known:
            raise DataInvalid(f"{path}: {name!r} is no input of the model, which takes {sorted(known)}")
    for spec in specs:
        if spec.name in preprocess.inputs:
            _check(path, preprocess.inputs[spec.name], spec)
    return preprocess


def _several(signatures: Signature | Sequence[Signature]) -> Sequence[Signature]:
    return (signatures,) if isinstance(signatures, Signature) else signatures


def _check(path: Path, one: InputPreprocess, spec: TensorSpec) -> None:
    if one.dtype not in (None, spec.dtype):
        raise DataInvalid(f"{path}: dtype of {spec.name!r} is {one.dtype}, the input is {spec}")
    if spec.dtype == "string" and one != InputPreprocess(dtype=one.dtype):
        raise DataInvalid(f"{path}: {spec.name!r} is {spec}: strings are not preprocessed")
    if one.axes and (found := misfit(one.axes, spec, mono=one.kind == "audio")):
        key, text = found
        raise DataInvalid(f"{path}: {key} of {spec.name!r} {text}")
    channels = _channels(one, spec)
    if one.kind == "values" and one.color and channels not in (VARIABLE, CHANNELS[one.color]):
        raise DataInvalid(
            f"{path}: color of {spec.name!r} is {one.color}, which has {CHANNELS[one.color]} channels, "
            f"the input's last axis has {channels}"
        )
    axis = "first of the three image axes" if one.layout == "chw" else "last axis"
    for key, constants in (("mean", one.mean), ("std", one.std)):
        if channels != VARIABLE and len(constants) not in (0, 1, channels):
            raise DataInvalid(
                f"{path}: {key} of {spec.name!r} has {len(constants)} values, the input's {axis} has {channels}"
            )


def _channels(one: InputPreprocess, spec: TensorSpec) -> int:
    """How many values mean and std may have: the size of the last axis before the layout; -1 if that is open."""
    if one.layout == "hw":
        return 1
    made = next((axis.size for axis in one.axes if axis.label in ("channels", "fields", "frame")), VARIABLE)
    if made != VARIABLE or one.kind == "audio":
        return made
    if one.layout == "chw":
        return spec.shape[-3]
    return spec.shape[-1] if spec.shape else 1


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DataInvalid(f"{path}: {path.stat().st_size} bytes, at most {MAX_TEXT_BYTES} are read")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{path}: can't be read: {error}") from error
