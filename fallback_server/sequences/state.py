"""The state of one sequence: what goes into a step, and what it leaves behind. Pure but for what it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from fallback_server.core.errors import ExecutionFailed, InvalidInput
from fallback_server.executors.base import VARIABLE, Array, Signature, TensorSpec
from fallback_server.late_inputs import LateInputs, size_bytes
from fallback_server.sequences.pairing import check_sent


class SequenceState:
    """What a sequence remembers.

    Args:
        signature: Of a step.
        pairs: Its state: input -> the output that is its value in the next step.
        resize: Told of the state's size in bytes before that takes memory, where it can be known before; may refuse.

    Attributes:
        step: The number of the last step; 0 before the first.
        arrays: The state by the inputs that take it; empty before the first step.
        form: Another object as soon as the state has other dtypes or shapes: what was checked of a step beside it holds
            for another that has the same form and is sent the same but for values.
    """

    def __init__(self, signature: Signature, pairs: Mapping[str, str], resize: Callable[[int], None]) -> None:
        self.step = 0
        self.arrays: dict[str, Array] = {}
        self.form = object()
        self._signature = signature
        self._pairs = pairs
        self._outputs = {out: into for into, out in pairs.items()}
        self._resize = resize
        self._rows: int | None = None
        has_rows = any(signature.inputs[name].has_batch_axis for name in pairs)
        self._row_specs = [spec for spec in signature.inputs.values() if has_rows and spec.has_batch_axis]

    def inputs(self, sent: Mapping[str, Array], *, reset: bool, checked: bool = False) -> Mapping[str, Array]:
        """What a step runs on: what was sent, and of the state what was not.

        Args:
            sent: By name; not yet checked against the signature.
            reset: Whether a new sequence begins.
            checked: Whether the step before was sent the same but for values, and left the `form` that it found.

        Raises:
            InvalidInput: it has other rows than the first step, where the state has rows; or the state's zeros have no
                known shape.
            ServerError: as `resize` says.
        """
        if reset:
            self.step, self.arrays, self._rows = 0, {}, None
            self.form = object()
            self._resize(0)
        elif checked:
            return {**self.arrays, **sent}
        self._check_rows(sent)
        if not self.arrays:
            check_sent(self._pairs, sent, held=False)
            if not self._pairs.keys() & sent.keys():
                self.arrays = self._zeros()
        if isinstance(sent, LateInputs):
            return sent.beside(self.arrays)
        return {**self.arrays, **sent}

    def advance(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """A step has run: keeps its state, and returns the other outputs.

        Raises:
            ExecutionFailed: the model gave no state.
            ServerError: as `resize` says.
        """
        kept: dict[str, Array] = {}
        answered: dict[str, Array] = {}
        before = self.arrays
        is_alike = True
        for name, array in outputs.items():
            into = self._outputs.get(name)
            if into is None:
                answered[name] = array
                continue
            # Of its own: the rows of a batch that are held would keep all of it.
            kept[into] = array.copy() if array.base is not None else array
            was = before.get(into)
            if was is None or array.shape != was.shape or array.dtype != was.dtype or array.dtype.kind == "O":
                is_alike = False
        if len(kept) < len(self._pairs):
            missing = next(out for out, into in self._outputs.items() if into not in kept)
            raise ExecutionFailed(f"the model gave no output {missing!r}")
        if not is_alike:
            self._resize(size_bytes(kept))
            self.form = object()
        self.arrays = kept
        self.step += 1
        return answered

    def _check_rows(self, sent: Mapping[str, Array]) -> None:
        """What is sent has the rows of the first step. A signature whose rows mix is checked for them nowhere else."""
        for spec in self._row_specs:
            array = sent.get(spec.name)
            if array is None or array.shape[:1] == (self._rows,) or not spec.accepts(array):
                continue  # What does not fit the signature is refused by whoever checks that.
            rows = int(array.shape[0])
            if self._rows is None:
                self._rows = rows
            else:
                raise InvalidInput(
                    f"a step must have as many rows as the first of its sequence: that has {self._rows}, "
                    f"{spec.name!r} has {rows}"
                )

    def _zeros(self) -> dict[str, Array]:
        """Of the rows of the first step: 1 where nothing says so."""
        if self._rows is None:
            self._rows = 1
        specs = {name: self._signature.inputs[name] for name in self._pairs}
        shapes = {name: _shape(spec, self._rows) for name, spec in specs.items()}
        self._resize(sum(math.prod(shape) * specs[name].dtype.itemsize for name, shape in shapes.items()))
        return {name: _zeros(specs[name].dtype, shape) for name, shape in shapes.items()}


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    if spec.shape is None or spec.variable_axes:
        raise InvalidInput(
            f"the state's input {spec.name!r} is {spec}, and has no zeros to begin with: send its first value"
        )
    return tuple(rows if size == VARIABLE else size for size in spec.shape)


def _zeros(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
    return np.full(shape, b"", object) if dtype.kind == "O" else np.zeros(shape, dtype)
