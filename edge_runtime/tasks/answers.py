"""One row of one output: what every task starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def row_of(name: str, array: Array, row: int | None) -> Array:
    """The array without its first axis: the row, or the only one.

    Raises:
        InvalidInput: there is no first axis or no such row, or there are several rows and none is named.
    """
    rows = array.shape[0] if array.ndim else 0
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
    if array.dtype.kind == "f":
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


def label_of(labels: Labels | None, number: int) -> str:
    """The class's name; empty where there is none."""
    if labels is None:
        return ""
    if isinstance(labels, Mapping):
        return labels.get(number, "")
    return labels[number] if 0 <= number < len(labels) else ""


def shaped(array: Array) -> str:
    """`float32[1, 10]`."""
    return f"{array.dtype}{list(array.shape)}"


def described(found: Mapping[str, Array]) -> str:
    """The outputs with their shapes, for messages."""
    return ", ".join(f"{name!r} {shaped(array)}" for name, array in found.items()) or "none"
