"""Inputs of different lengths in one batch: which go together, and how they are made alike. Pure.

As TensorFlow Serving's `pad_variable_length_inputs`: up to the longest, with each tensor's own first element. Which of
those values mean nothing is for the model to tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fallback_server.batching.tasks import Array

Shapes = tuple[tuple[int, ...], ...]
"""Of all inputs but for their rows, in the order of their names."""

_EXACT = -1
"""No size. Keeps what is not padded apart from what may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """How variable dimensions are padded.

    Attributes:
        axes: Input name -> its variable dimensions, the rows' own not among them.
        allowed: The lengths that a model is run with, ascending. Empty: that of the longest input of a batch, in which
            none is half as long as another.
    """

    axes: Mapping[str, frozenset[int]] = field(default_factory=dict)
    allowed: tuple[int, ...] = ()

    def class_of(self, inputs: Mapping[str, Array]) -> Shapes:
        """What inputs must have in common to be in one batch."""
        return tuple(self._class(name, inputs[name].shape) for name in sorted(inputs))

    def alike(self, parts: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
        """The same inputs, each as long as the longest, or as the next allowed length. Of one class."""
        return [dict(zip(parts[0], arrays, strict=True)) for arrays in zip(*self._columns(parts), strict=True)]

    def _columns(self, parts: Sequence[Mapping[str, Array]]) -> list[list[Array]]:
        """Input by input, those of all parts."""
        columns = []
        for name in parts[0]:
            arrays = [part[name] for part in parts]
            if self.axes.get(name):
                shape = tuple(map(max, zip(*(array.shape[1:] for array in arrays), strict=True)))
                target = self._class(name, (0, *shape)) if self.allowed else shape
                arrays = [_padded(array, target) for array in arrays]
            columns.append(arrays)
        return columns

    def _class(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        axes = self.axes.get(name, frozenset())
        return tuple(
            self._next(size) if axis in axes else size
            for axis, size in enumerate(shape)
            if axis  # not the rows
        )

    def _next(self, size: int) -> int:
        if self.allowed:
            return next((length for length in self.allowed if length >= size), size)
        return 1 << (size - 1).bit_length() if size else 0


def class_of(inputs: Mapping[str, Array], lengths: Lengths | None, *, exact: bool) -> Shapes:
    """What inputs must have in common to be in one batch.

    Args:
        inputs: By name.
        lengths: How they may be made alike; None where they may not.
        exact: Whether these are to be run as they are.
    """
    if lengths is not None and not exact:
        return lengths.class_of(inputs)
    shapes = tuple(inputs[name].shape[1:] for name in sorted(inputs))
    return (*shapes, (_EXACT,)) if exact and lengths is not None else shapes


def _padded(array: Array, shape: tuple[int, ...]) -> Array:
    """Rows of this inner shape, which is nowhere smaller; filled with the first element of all."""
    if array.shape[1:] == shape:
        return array
    padded = np.empty((len(array), *shape), array.dtype)
    if array.size:
        padded[...] = array.reshape(-1)[0]
    else:
        padded[...] = b"" if array.dtype.kind == "O" else 0
    padded[tuple(map(slice, array.shape))] = array
    return padded
