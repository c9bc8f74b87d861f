"""Checks what a caller gives against a signature, before anything is queued or sent."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from converter.artifact import VARIABLE, Signature, TensorSpec
from edge_runtime.errors import InvalidInput
from edge_runtime.types import Array, Arrays

Inputs = Array | Mapping[str, Array]
"""One array for a signature with one input, or arrays by input name."""


def default_signature(signatures: Collection[Signature]) -> Signature:
    """`serving_default`, else the first of at least one."""
    return next((one for one in signatures if one.name == "serving_default"), next(iter(signatures)))


def zeros(signature: Signature, rows: int) -> Arrays:
    """Inputs of zeros; a variable dimension other than the batch axis has size 1."""
    arrays: Arrays = {}
    for spec in signature.inputs:
        shape = [1 if size == VARIABLE else size for size in spec.shape]
        if signature.batch_axis is not None:
            shape[signature.batch_axis] = rows
        fill = b"" if spec.dtype == "string" else 0
        arrays[spec.name] = np.full(shape, fill, dtype=spec.numpy_dtype)
    return arrays


class InputCheck:
    """The check for one signature, made ready once so that it costs next to nothing for each request."""

    def __init__(self, subject: str, signature: Signature, pixels: Collection[str] = ()) -> None:
        """Takes the name that errors say (`digits/3`), the signature, and the inputs that may be uint8 pixels too."""
        self._pixels = frozenset(pixels)
        self._subject = f"{subject}, signature {signature.name!r}"
        self._signature = signature
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._axis = signature.batch_axis
        self._only: TensorSpec | None = signature.inputs[0] if len(signature.inputs) == 1 else None
        # The usual case, an image batch: compare dtype and the shape behind the batch axis, and nothing else.
        only = self._only
        plain = only is not None and self._axis == 0 and VARIABLE not in only.shape[1:] and only.shape[0] == VARIABLE
        self._inner = only.shape[1:] if only is not None and plain else None
        # Or one fixed shape, as most bare files have.
        fixed = only is not None and self._axis is None and VARIABLE not in only.shape
        self._fixed = only.shape if only is not None and fixed else None
        self._dtype = only.numpy_dtype if only is not None and (plain or fixed) else None

    def __call__(self, inputs: Inputs) -> tuple[Arrays, int]:
        """The arrays by name, and the number of rows.

        Raises:
            InvalidInput: a name, dtype or shape is wrong; no row; or inputs disagree on the rows.
        """
        if isinstance(inputs, np.ndarray):
            only = self._only
            if only is None:
                raise InvalidInput(f"{self._subject} has the inputs {self._described()}: pass them by name")
            if inputs.dtype == self._dtype and type(inputs) is np.ndarray:
                shape = inputs.shape
                if shape == self._fixed:
                    return {only.name: inputs}, 1
                if shape and shape[1:] == self._inner and shape[0] > 0:
                    return {only.name: inputs}, shape[0]
            return self._checked({only.name: inputs})
        if not isinstance(inputs, Mapping):
            raise InvalidInput(
                f"{self._subject}: inputs must be a numpy array or arrays by input name, got {type(inputs).__name__}"
            )
        return self._checked(inputs)

    def _checked(self, inputs: Mapping[str, Array]) -> tuple[Arrays, int]:
        if inputs.keys() != self._specs.keys():
            extra, missing = sorted(set(inputs) - set(self._specs)), sorted(set(self._specs) - set(inputs))
            raise InvalidInput(
                f"{self._subject} has the inputs {self._described()}; missing: {missing}, not known: {extra}"
            )
        arrays = {name: self._check(spec, inputs[name]) for name, spec in self._specs.items()}
        return arrays, self._rows(arrays)

    def _check(self, spec: TensorSpec, array: Array) -> Array:
        if not isinstance(array, np.ndarray):
            raise InvalidInput(
                f"{self._subject}: input {spec.name!r} must be a numpy array, got {type(array).__name__}"
            )
        fits = array.dtype.kind in "OSU" if spec.dtype == "string" else array.dtype == spec.numpy_dtype
        fits = fits or (array.dtype == np.uint8 and spec.name in self._pixels)
        if not fits or not spec.accepts(array.shape):
            raise InvalidInput(
                f"{self._subject}: input {spec.name!r} must be {spec} (-1 is any size), "
                f"got {array.dtype}{list(array.shape)}"
            )
        if hasattr(array, "mask"):
            raise InvalidInput(
                f"{self._subject}: input {spec.name!r} is a masked array; fill it, the mask would be lost"
            )
        if array.dtype.kind == "O" and not all(isinstance(item, bytes | str) for item in array.flat):
            raise InvalidInput(f"{self._subject}: input {spec.name!r} must hold bytes or str and nothing else")
        return np.asarray(array)

    def _rows(self, inputs: Mapping[str, Array]) -> int:
        if self._axis is None:
            return 1
        rows = {name: int(array.shape[self._axis]) for name, array in inputs.items()}
        if len(set(rows.values())) != 1:
            raise InvalidInput(f"{self._subject}: inputs disagree on the number of rows: {rows}")
        count = next(iter(rows.values()))
        if count == 0:
            raise InvalidInput(f"{self._subject}: at least one row is needed, got shape with 0 rows")
        return count

    def _described(self) -> str:
        return ", ".join(f"{name}: {spec}" for name, spec in self._specs.items())


def deadline(start_s: float, deadline_ms: float | None) -> float | None:
    """The instant of a deadline that is given in milliseconds from the start; None for none.

    Raises:
        InvalidInput: it is not above 0 and finite.
    """
    if deadline_ms is None:
        return None
    try:
        valid = bool(deadline_ms > 0 and math.isfinite(deadline_ms))
    except TypeError:
        valid = False
    if not valid:
        raise InvalidInput(f"deadline_ms must be above 0 and finite, got {deadline_ms!r}")
    return start_s + deadline_ms / 1e3
