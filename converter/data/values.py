"""Casts values to what a model takes, where they survive it, and refuses what is no number."""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.artifact import TensorSpec
from converter.data.dataset import Array
from converter.errors import DataInvalid

_EXACT_INTEGERS = {"float16": 2**11, "float32": 2**24, "float64": 2**53}
"""Up to where a float dtype holds every integer."""

_CHECK_BYTES = 2**20
"""Looked through at once; which sample is at fault is then sought in these only."""


def check_dtype(what: str, dtype: np.dtype[Any], spec: TensorSpec) -> None:
    """Refuses values of a dtype that can't become the spec's, whatever they are.

    Raises:
        DataInvalid: so it is; both dtypes are named.
    """
    if spec.dtype == "string":
        if dtype.kind not in "SU":
            raise DataInvalid(f"{what} is {dtype}, the model takes strings")
    elif dtype.kind not in _castable_kinds(spec.numpy_dtype):
        raise DataInvalid(f"{what} is {dtype}, the model takes {spec.dtype}")


def cast(what: str, array: Array, spec: TensorSpec, start: int = 0, source: str = "") -> Array:
    """The array in the spec's dtype, if no value suffers more than a float's rounding.

    Floats become other floats; integers become other integers or floats where every value fits. Floats never become
    integers.

    Args:
        what: What it is, for messages.
        array: Samples along the first axis.
        spec: What the model takes.
        start: The index of its first sample in all the data.
        source: The file of its only sample, if it was one.

    Raises:
        DataInvalid: the dtypes don't go together, a value does not fit, or one is NaN or infinite.
    """
    check_dtype(what, array.dtype, spec)
    if spec.dtype == "string":
        return array
    _refuse_not_finite(what, array, start, source)
    if array.dtype.kind in "iu" and array.size:
        bound = _EXACT_INTEGERS.get(spec.dtype)
        info: Any = None if bound else np.iinfo(np.dtype(spec.dtype))
        low, high = (-bound, bound) if bound else (info.min, info.max)
        if array.min() < low or array.max() > high:
            raise DataInvalid(
                f"{what} holds {array.min()} to {array.max()}; {spec.dtype} takes {low} to {high} exactly"
            )
    with np.errstate(over="ignore"):
        found: Array = array.astype(spec.numpy_dtype, copy=False)
    if found.dtype != array.dtype:
        _refuse_not_finite(f"{what} as {spec.dtype}", found, start, source)
    return found


def _castable_kinds(dtype: np.dtype[Any]) -> str:
    return {"f": "fiub", "i": "iub", "u": "iub", "b": "b", "c": "cfiub"}[dtype.kind]


def _refuse_not_finite(what: str, array: Array, start: int, source: str) -> None:
    if array.dtype.kind not in "fc" or not array.size:
        return
    step = max(1, _CHECK_BYTES * len(array) // array.nbytes) if array.ndim else 1
    for first in range(0, len(array) if array.ndim else 0, step):
        part = array[first : first + step]
        finite = np.isfinite(part)
        if not finite.all():
            index = start + first + int(np.argwhere(~finite)[0][0])
            named = f"{index} ({source})" if source else str(index)
            raise DataInvalid(f"{what}: sample {named} holds {part[~finite].flat[0]}")
