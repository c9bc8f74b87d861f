"""What shape preprocessing makes of a sample, held against the input's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.artifact.errors import RawInvalid
from converter.artifact.signature import VARIABLE, TensorSpec


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a sample that was preprocessed.

    Attributes:
        key: The setting that decides its size.
        label: What lies along it: `height`, `channels`...
        size: How many; -1 where the raw values decide.
    """

    key: str
    label: str
    size: int = VARIABLE


def _forms(sample: tuple[int, ...], rows: int, *, mono: bool) -> list[tuple[int, tuple[int, ...]]]:
    """The shapes in which `rows` samples can be handed over, the usual one first, each after its first sample axis.

    With the batch axis in front, and for a single sample without it. `mono` adds the same with one axis of size 1 at
    the end: a clip for a model that wants channels.
    """
    found: list[tuple[int, tuple[int, ...]]] = []
    for shape in [sample, (*sample, 1)] if mono else [sample]:
        found.append((1, (rows, *shape)))
        if rows in (1, VARIABLE):
            found.append((0, shape))
    return found


def handed_over(samples: npt.NDArray[Any], spec: TensorSpec, *, mono: bool) -> npt.NDArray[Any]:
    """Samples [rows, ...] in the first form that the spec accepts, contiguous; `mono` may add an axis at the end.

    Raises:
        RawInvalid: it accepts none.
    """
    rows, sample = samples.shape[0], samples.shape[1:]
    for _, shape in _forms(sample, rows, mono=mono):
        if spec.accepts(shape):
            return np.ascontiguousarray(samples.reshape(shape))
    raise RawInvalid(f"{rows} of the shape {list(sample)} came out, the input is {spec}")


def misfit(axes: Sequence[Axis], spec: TensorSpec, *, mono: bool) -> tuple[str, str] | None:
    """The setting for which no sample of these axes can fit the spec, and a clause that says why; None if one can."""
    shapes = _forms(tuple(axis.size for axis in axes), VARIABLE, mono=mono)
    if any(_compatible(shape, spec.shape) for _, shape in shapes):
        return None
    layout = " x ".join(axis.label for axis in axes)
    for first, shape in shapes:
        if len(shape) != len(spec.shape):
            continue
        for axis, have in zip(axes, spec.shape[first:], strict=False):
            if not _agree(axis.size, have):
                return axis.key, f"makes {layout} with {axis.label} {axis.size}, the input {spec} has {have}"
    return axes[-1].key, f"makes {layout}, with a batch axis or without; the input is {spec}"


def _compatible(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(_agree(have, want) for have, want in zip(shape, wanted, strict=True))


def _agree(one: int, other: int) -> bool:
    return VARIABLE in (one, other) or one == other
