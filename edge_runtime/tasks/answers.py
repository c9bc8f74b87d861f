"""One row of one output: what every task starts from."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.artifact import Signature
from edge_runtime.errors import InvalidInput
from edge_runtime.types import Array, Reply

Answer = Reply | Mapping[str, Array] | Array
"""A reply, its outputs by name, or one output."""

Labels = Sequence[str] | Mapping[int, str]
"""By class id."""

Floats = npt.NDArray[np.float32]


def outputs(answer: Answer) -> dict[str, Array]:
    """The outputs by name; an array alone has the name "".

    Raises:
        InvalidInput: it is no answer.
    """
    if isinstance(answer, Reply):
        return answer.outputs
    if isinstance(answer, np.ndarray):
        return {"": answer}
    if isinstance(answer, Mapping) and all(isinstance(one, np.ndarray) for one in answer.values()):
        return dict(answer)
    raise InvalidInput(f"a Reply, arrays by output name or one array is needed, got {type(answer).__name__}")


def chosen(answer: Answer, name: str | None) -> tuple[str, Array]:
    """The output of that name, or the only one, with its name.

    Raises:
        InvalidInput: there is none of that name, or there are several and none is named.
    """
    found = outputs(answer)
    if name is None and len(found) == 1:
        return next(iter(found.items()))
    if name is None:
        raise InvalidInput(f"there are the outputs {described(found)}: say which with output=")
    if name not in found:
        raise InvalidInput(f"there is no output {name!r}; there are {described(found)}")
    return name, found[name]


def count_of(name: str, value: Any) -> int:
    """An option that is a whole number of at least 1.

    Raises:
        InvalidInput: it is none.
    """
    number = whole(name, value)
    if number < 1:
        raise InvalidInput(f"{name} must be at least 1, got {number}")
    return number


def whole(name: str, value: Any) -> int:
    """An option that is a whole number.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidInput(f"{name} must be a whole number, got {value!r}") from None


def limit_of(name: str, value: Any) -> float:
    """An option that numbers are compared with; it may be infinite.

    Raises:
        InvalidInput: it is no number.
    """
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise InvalidInput(f"{name} must be a number, got {value!r}")
    return number


def row_of(name: str, array: Array, row: int | None) -> Array:
    """The array without its first axis: the row, or the only one.

    Raises:
        InvalidInput: there is no first axis or no such row, or there are several rows and none is named.
    """
    rows = array.shape[0] if array.ndim else 0
    row = None if row is None else whole("row", row)
    if row is None and rows != 1:
        raise InvalidInput(f"output {name!r} {shaped(array)}: {rows} rows, say which with row=")
    if row is not None and not 0 <= row < rows:
        raise InvalidInput(f"output {name!r} {shaped(array)}: row {row} is not in 0..{rows - 1}")
    picked: Array = array[row or 0]
    return picked


def reals(name: str, array: Array, signature: Signature | None) -> Floats:
    """The numbers that the array stands for, float32: the stored integers of a bare quantized file are dequantized.

    Raises:
        InvalidInput: it holds no numbers; or integers, and nothing says what they stand for.
    """
    if signature is not None and not isinstance(signature, Signature):
        raise InvalidInput(f"signature must be a model's, as model.signature, got {type(signature).__name__}")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # What float32 can't hold is infinite in it.
            return array.astype(np.float32, copy=False)
    if array.dtype.kind not in "iu":
        raise InvalidInput(f"output {name!r} {shaped(array)}: numbers are needed")
    spec = next((spec for spec in (signature.outputs if signature else ()) if spec.name == name), None)
    if spec is None and signature is not None and not name and len(signature.outputs) == 1:
        spec = signature.outputs[0]
    if spec is None or spec.quantization is None:
        raise InvalidInput(
            f"output {name!r} {shaped(array)}: integers, and nothing says what they stand for: give signature= with "
            "the output's quantization, or an array of real numbers"
        )
    if len(spec.quantization.scales) > 1:
        raise InvalidInput(f"output {name!r}: {len(spec.quantization.scales)} scales, one is expected")
    return spec.quantization.dequantize(array)


def ranked(scores: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """The indices of real scores [C], the best first; of equal ones the lower first, and those that are NaN not at all.

    Every list of classes has this order.
    """
    there = np.flatnonzero(~np.isnan(scores))
    return there[np.argsort(-scores[there], kind="stable")]


def label_of(labels: Labels | None, number: int) -> str:
    """The class's name; empty where there is none.

    Raises:
        InvalidInput: they are no labels.
    """
    if labels is None:
        return ""
    if isinstance(labels, Mapping):
        return labels.get(number, "")
    if not isinstance(labels, Sequence):
        raise InvalidInput(f"labels must be a sequence, or names by class id, got {type(labels).__name__}")
    return labels[number] if 0 <= number < len(labels) else ""


def shaped(array: Array) -> str:
    """`float32[1, 10]`."""
    return f"{array.dtype}{list(array.shape)}"


def described(found: Mapping[str, Array]) -> str:
    """The outputs with their shapes, for messages."""
    return ", ".join(f"{name!r} {shaped(array)}" for name, array in found.items()) or "none"
