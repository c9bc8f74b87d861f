"""Checks a request against a signature before anything runs. Pure; the texts are TensorFlow Serving's where it has one.

TensorFlow does not check shapes itself: a wrong rank ends the whole process, a wrong dimension gives a wrong answer.
So nothing that fails here may reach an executor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fallback_server.core.errors import InvalidInput
from fallback_server.executors.base import Array, Signature, describe


def check_inputs(signature: Signature, inputs: Mapping[str, Array]) -> int:
    """Checks names, dtypes, ranks, fixed dimensions, and that all inputs have as many rows.

    Returns:
        The number of rows, which may be 0; 1 where the signature has no batch axis.

    Raises:
        InvalidInput: naming the input, what is expected and what came.
    """
    if inputs.keys() != signature.inputs.keys():
        raise InvalidInput(_wrong_names(signature.inputs, inputs))
    for name, spec in signature.inputs.items():
        array = inputs[name]
        if not spec.accepts(array):
            raise InvalidInput(f"input {name!r}: expected {spec}, got {describe(array.dtype, array.shape)}")
    return _rows(inputs) if signature.batches else 1


def check_output_filter(signature: Signature, names: Sequence[str]) -> None:
    """Checks the outputs that a request asks for; none means all.

    Raises:
        InvalidInput: one doesn't exist, or is named twice.
    """
    seen: set[str] = set()
    for name in names:
        if name not in signature.outputs:
            raise InvalidInput(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_set(signature.outputs)}."
            )
        if name in seen:
            raise InvalidInput(f"duplicate output tensor alias: {name}")
        seen.add(name)


def _rows(inputs: Mapping[str, Array]) -> int:
    rows = {name: int(array.shape[0]) for name, array in inputs.items()}
    count = next(iter(rows.values()))
    if any(other != count for other in rows.values()):
        told = ", ".join(f"{name!r} has {rows[name]}" for name in sorted(rows))
        raise InvalidInput(f"the inputs must have as many rows as each other: {told}")
    return count


def _wrong_names(expected: Mapping[str, object], given: Mapping[str, object]) -> str:
    extra = given.keys() - expected.keys()
    if len(given) == len(expected):
        return (
            f"input tensor alias not found in signature: {min(extra)}. "
            f"Inputs expected to be in the set {_set(expected)}."
        )
    missing = expected.keys() - given.keys()
    return (
        f"input size does not match signature: {len(given)}!={len(expected)} "
        f"len({_set(given)}) != len({_set(expected)}). "
        f"Sent extra: {_set(extra)}. Missing but required: {_set(missing)}."
    )


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
