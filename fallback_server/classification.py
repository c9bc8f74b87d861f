"""Classify and Regress: which of a signature's tensors they mean, and what its outputs say. Pure; knows no transport.

The tensors' names, the rules and the texts are TensorFlow Serving's. As there, a signature's method name is looked at
only where the operator asks for it: models of TensorFlow 2 say `predict` whatever they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np

from fallback_server.core.errors import ExecutionFailed, InvalidInput
from fallback_server.executors.base import Array, Signature, TensorSpec
from fallback_server.late_inputs import LateInputs
from fallback_server.protocol.tensors import MAX_FILLED_BYTES

INPUTS = "inputs"
CLASSES, SCORES = "classes", "scores"
OUTPUTS = "outputs"

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"


def classify_outputs(signature: Signature, *, check_method: bool = False) -> tuple[str, ...]:
    """The outputs that Classify reads.

    Raises:
        InvalidInput: the signature can't be used so.
    """
    if check_method:
        _check_method(signature, CLASSIFY_METHOD, "classification")
    _check_examples(signature, "classification")
    if len(signature.outputs) not in (1, 2):
        raise InvalidInput(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    found = tuple(name for name in (CLASSES, SCORES) if name in signature.outputs)
    if len(found) != len(signature.outputs):
        raise InvalidInput(
            "Expected classification signature outputs to contain only "
            f"{CLASSES!r} and {SCORES!r}. Found: {sorted(signature.outputs)}"
        )
    return found


def regress_outputs(signature: Signature, *, check_method: bool = False) -> tuple[str, ...]:
    """The output that Regress reads.

    Raises:
        InvalidInput: the signature can't be used so.
    """
    if check_method:
        _check_method(signature, REGRESS_METHOD, "regression")
    _check_examples(signature, "regression")
    if len(signature.outputs) != 1:
        raise InvalidInput("Expected one output Tensor.")
    if OUTPUTS not in signature.outputs:
        raise InvalidInput(f"No regression outputs found in SignatureDef: {sorted(signature.outputs)}")
    return (OUTPUTS,)


class Examples(Sequence[bytes]):
    """Serialized Examples, and the bytes of a context before each, which so merges its features into all.

    Both are joined when a request runs: a small message may repeat a large context many times.

    Raises:
        InvalidInput: the context would be repeated beyond `MAX_FILLED_BYTES`.
    """

    def __init__(self, each: Sequence[bytes], context: bytes = b"") -> None:
        self.each = each
        self.context = context
        self.context_bytes = len(each) * len(context)
        if self.context_bytes > MAX_FILLED_BYTES:
            raise InvalidInput(
                f"a context of {len(context)} bytes before each of {len(each)} examples takes {self.context_bytes} "
                f"bytes: at most {MAX_FILLED_BYTES} bytes are repeated"
            )

    def __len__(self) -> int:
        return len(self.each)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self.context + example for example in self.each[index]]
        return self.context + self.each[index]


def example_inputs(examples: Sequence[bytes]) -> Mapping[str, Array]:
    """Serialized Examples as the signature's input: strings of shape (examples,), late where they have a context.

    Raises:
        InvalidInput: there are none.
    """
    if not examples:
        raise InvalidInput("Input is empty.")
    if not isinstance(examples, Examples):
        return {INPUTS: _strings(examples)}
    inputs = {INPUTS: _strings(examples.each)}
    if not examples.context:
        return inputs
    return LateInputs(inputs, {INPUTS: lambda: _strings(examples[:])}, more_bytes=examples.context_bytes)


def _strings(items: Sequence[bytes]) -> Array:
    return np.fromiter(items, object, len(items))


def classes(outputs: Mapping[str, Array], rows: int) -> list[list[tuple[str, float]]]:
    """For each row its classes as (label, score); a missing label is empty, a missing score 0.

    Raises:
        ExecutionFailed: the model's outputs have other shapes or dtypes than a classification's.
    """
    labels, scores = outputs.get(CLASSES), outputs.get(SCORES)
    count: int | None = None
    for name, array in ((CLASSES, labels), (SCORES, scores)):
        if array is None:
            continue
        if array.ndim != 2:
            raise ExecutionFailed(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
        if array.shape[0] != rows:
            raise ExecutionFailed(f"Expected {name} output batch size of {rows}. Got: {array.shape[0]}")
        if count is not None and array.shape[1] != count:
            raise ExecutionFailed(
                f"Tensors class and score should match in dim_size(1). Got {count} vs. {array.shape[1]}"
            )
        count = int(array.shape[1])
    if labels is not None and labels.dtype.kind != "O":
        raise ExecutionFailed(f"Expected classes Tensor of DT_STRING. Was: {labels.dtype.name}")
    if scores is not None and scores.dtype != np.float32:
        raise ExecutionFailed(f"Expected scores Tensor of type DT_FLOAT. Was: {_dtype(scores)}")
    nothing = [[None] * (count or 0)] * rows
    texts = nothing if labels is None else labels.tolist()
    values = nothing if scores is None else scores.tolist()
    return [
        [("" if text is None else _text(text), value or 0.0) for text, value in zip(*row, strict=True)]
        for row in zip(texts, values, strict=True)
    ]


def regressions(outputs: Mapping[str, Array], rows: int) -> list[float]:
    """For each row its value.

    Raises:
        ExecutionFailed: the model's output has another shape or dtype than a regression's.
    """
    values = outputs[OUTPUTS]
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 1):
        raise ExecutionFailed(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(values)}"
        )
    if values.shape[0] != rows:
        raise ExecutionFailed(f"Input batch size did not match output batch size: {rows} vs. {values.shape[0]}")
    if values.dtype != np.float32:
        raise ExecutionFailed(f"Expected output Tensor of DT_FLOAT. Was: {_dtype(values)}")
    return [float(value) for value in values.reshape(-1).tolist()]


def _check_method(signature: Signature, expected: str, what: str) -> None:
    if signature.method != expected:
        raise InvalidInput(
            f"Expected {what} signature method_name to be {expected}. Was: {signature.method or '(empty)'}"
        )


def _check_examples(signature: Signature, what: str) -> None:
    if len(signature.inputs) != 1:
        raise InvalidInput("Expected one input Tensor.")
    spec: TensorSpec | None = signature.inputs.get(INPUTS)
    if spec is None:
        raise InvalidInput(f"No {what} inputs found in SignatureDef: {sorted(signature.inputs)}")
    if spec.dtype.kind != "O":
        raise InvalidInput(f"input {INPUTS!r} takes {spec}, and not serialized Examples, which are strings")


def _shape(array: Array) -> str:
    return "[" + ",".join(str(size) for size in array.shape) + "]"


def _dtype(array: Array) -> str:
    return "string" if array.dtype.kind == "O" else array.dtype.name


def _text(value: object) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
