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
    """

    def __init__(self, signature: Signature, pairs: Mapping[str, str], resize: Callable[[int], None]) -> None:
        self.step = 0
        self.arrays: dict[str, Array] = {}
        self._signature = signature
        self._pairs = pairs
        self._outputs = {out: into for into, out in pairs.items()}
        self._resize = resize

    def inputs(self, sent: Mapping[str, Array], *, reset: bool) -> Mapping[str, Array]:
        """What a step runs on: what was sent, and of the state what was not.

        Args:
            sent: By name; not yet checked against the signature.
            reset: Whether a new sequence begins.

        Raises:
            InvalidInput: the state's zeros have no known shape.
            ServerError: as `resize` says.
        """
        if reset:
            self.step, self.arrays = 0, {}
            self._resize(0)
        if not self.arrays:
            check_sent(self._pairs, sent, held=False)
            if not self._pairs.keys() & sent.keys():
                self.arrays = self._zeros(sent)
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
        for name, array in outputs.items():
            into = self._outputs.get(name)
            if into is None:
                answered[name] = array
            else:
                # Of its own: the rows of a batch that are held would keep all of it.
                kept[into] = array.copy() if array.base is not None else array
        if len(kept) < len(self._pairs):
            missing = next(out for out, into in self._outputs.items() if into not in kept)
            raise ExecutionFailed(f"the model gave no output {missing!r}")
        self._resize(size_bytes(kept))
        self.arrays = kept
        self.step += 1
        return answered

    def _zeros(self, sent: Mapping[str, Array]) -> dict[str, Array]:
        rows = self._rows(sent)
        shapes = {name: _shape(self._signature.inputs[name], rows) for name in self._pairs}
        specs = {name: self._signature.inputs[name] for name in shapes}
        self._resize(sum(math.prod(shape) * specs[name].dtype.itemsize for name, shape in shapes.items()))
        return {name: _zeros(specs[name].dtype, shape) for name, shape in shapes.items()}

    def _rows(self, sent: Mapping[str, Array]) -> int:
        """How many rows the first step has: those of any input that has them; 1 where nothing says so."""
        for name, spec in self._signature.inputs.items():
            array = sent.get(name)
            if array is not None and spec.has_batch_axis and spec.accepts(array):
                return int(array.shape[0])
        return 1


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    if spec.shape is None or spec.variable_axes:
        raise InvalidInput(
            f"the state's input {spec.name!r} is {spec}, and has no zeros to begin with: send its first value"
        )
    return tuple(rows if size == VARIABLE else size for size in spec.shape)


def _zeros(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
    return np.full(shape, b"", object) if dtype.kind == "O" else np.zeros(shape, dtype)
