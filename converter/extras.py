"""Class names and preprocessing, which travel inside the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from converter.artifact import VARIABLE, ManifestInvalid, Preprocess, Signature
from converter.errors import DataInvalid

MAX_TEXT_BYTES = 16 * 2**20
"""Such files hold names and numbers; a larger one was given by mistake."""


def read_labels(path: Path, signature: Signature) -> tuple[str, ...]:
    """The class names, one a line; empty lines at the end don't count.

    Raises:
        DataInvalid: no readable text, an empty line between names, or no output has as many classes.
    """
    labels = tuple(line.strip() for line in _read_text(path).rstrip().split("\n"))
    if "" in labels:
        raise DataInvalid(f"{path}: line {labels.index('') + 1} is empty; one class name a line is needed")
    sizes = {spec.name: spec.shape[-1] for spec in signature.outputs if spec.shape}
    if len(labels) not in sizes.values() and VARIABLE not in sizes.values():
        raise DataInvalid(f"{path}: {len(labels)} class names; the outputs' last axes have {sizes}")
    return labels


def read_preprocess(path: Path, signature: Signature) -> Preprocess:
    """The preprocessing in a TOML file: tables `[inputs.NAME]` with `scale`, `mean` and `std`.

    Raises:
        DataInvalid: no readable TOML, an unknown input or key, or constants that don't fit the input's last axis.
    """
    try:
        preprocess = msgspec.convert(tomllib.loads(_read_text(path)), Preprocess)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ManifestInvalid) as error:
        raise DataInvalid(f"{path}: {error}") from error
    known = {spec.name: spec for spec in signature.inputs}
    for name, one in preprocess.inputs.items():
        if name not in known:
            raise DataInvalid(f"{path}: {name!r} is no input of the model, which takes {sorted(known)}")
        channels = known[name].shape[-1] if known[name].shape else 1
        for key, constants in (("mean", one.mean), ("std", one.std)):
            if channels != VARIABLE and len(constants) not in (0, 1, channels):
                raise DataInvalid(
                    f"{path}: {key} of {name!r} has {len(constants)} values, the input's last axis has {channels}"
                )
    return preprocess


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DataInvalid(f"{path}: {path.stat().st_size} bytes, at most {MAX_TEXT_BYTES} are read")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{path}: can't be read: {error}") from error
