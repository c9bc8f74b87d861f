"""The narrow waist: what the server knows of a loaded version, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fallback_server.core.model_config import EXECUTORS

Array = npt.NDArray[np.generic]

KINDS = EXECUTORS[1:]
"""What executors there are, by what runs the model."""

VARIABLE = -1
"""A dimension whose size the caller chooses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: The name in the signature.
        dtype: `object` for strings, which are bytes.
        shape: Dimensions, -1 where variable; None when not even the rank is known.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...] | None

    @property
    def variable_axes(self) -> frozenset[int]:
        """The dimensions whose sizes the caller chooses, the rows' own not among them; none of an unknown rank."""
        return frozenset(axis for axis, size in enumerate(self.shape or ()) if axis and size == VARIABLE)

    @property
    def has_batch_axis(self) -> bool:
        """Whether the first dimension is variable."""
        return bool(self.shape) and self.shape is not None and self.shape[0] == VARIABLE

    def accepts(self, array: Array) -> bool:
        """Whether an array fits: the dtype, the rank, and every dimension that is fixed."""
        if array.dtype != self.dtype:
            return False
        if self.shape is None:
            return True
        return len(array.shape) == len(self.shape) and all(
            want in (VARIABLE, have) for want, have in zip(self.shape, array.shape, strict=True)
        )

    def __str__(self) -> str:
        return describe(self.dtype, self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """A named entry point.

    Attributes:
        name: What a request calls it.
        inputs: By name.
        outputs: By name.
        method: What it says that it is for, such as `tensorflow/serving/predict`; empty where it says nothing.
        mixes_rows: Whether a trial showed that a row's answer depends on the rows beside it.
        batches_inside: Whether the model merges what reaches it at the same time: then requests are to reach it so.
        inputs_id: Signatures where this is the same, and not empty, read the same inputs of the model: one run answers
            several of them, under their `joint_name`.
        worth_rows: So many rows take the least time each in one run, as was measured; 0: not known.
        batches: Whether every input and output has a variable first dimension, no trial showed that rows mix, and the
            model doesn't merge rows itself: then requests may be merged.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: str = ""
    mixes_rows: bool = False
    batches_inside: bool = False
    inputs_id: str = ""
    worth_rows: int = 0
    batches: bool = field(init=False)

    def __post_init__(self) -> None:
        specs = (*self.inputs.values(), *self.outputs.values())
        batches = bool(self.inputs) and all(spec.has_batch_axis for spec in specs)
        object.__setattr__(self, "batches", batches and not self.mixes_rows and not self.batches_inside)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSizes:
    """How a version will be run: what an executor that prepares for sizes prepares for.

    Attributes:
        rows: The numbers of rows that batches will have, or that are next above them; ascending, at least one.
        threads: How many runs go side by side at most.
    """

    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    threads: int = 1


class GivenInputs(dict[str, Array]):
    """Inputs that whoever runs them may take out as soon as it needs them no more: nobody else looks at this mapping.

    So the memory of a large request is free while the model runs, where that runs on a copy.
    """


class JoinedInputs(Mapping[str, Array]):
    """The inputs of a batch, of which whoever copies them anyhow takes each request's rows from where they are.

    To whoever looks at them by name they are put together first. For one thread at a time.

    Args:
        parts: Inputs by name, in the order of their rows; at least one, with the same names and dtypes, and shapes that
            differ in the first dimension alone.
        padding: As often the first row comes again behind them.
    """

    __slots__ = ("_joined", "_padding", "_parts")

    def __init__(self, parts: Sequence[Mapping[str, Array]], *, padding: int = 0) -> None:
        self._parts = parts
        self._padding = padding
        self._joined: dict[str, Array] = {}

    def arrays(self, name: str) -> list[Array]:
        """An input's rows in pieces, one behind the other, the padding as a view of one row."""
        arrays = [part[name] for part in self._parts]
        if self._padding:
            first = next(array for array in arrays if len(array))
            arrays.append(np.broadcast_to(first[:1], (self._padding, *first.shape[1:])))
        return arrays

    def __getitem__(self, name: str) -> Array:
        """An input in one piece, which is made once."""
        found = self._joined.get(name)
        if found is None:
            found = self._joined[name] = np.concatenate(self.arrays(name))
        return found

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._parts[0])

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._parts[0])


class Executor(Protocol):
    """A loaded version.

    Attributes:
        kind: What runs it, one of `KINDS`.
        in_process: Whether it runs in this process: then a run costs no hop to another.
        at_once: How many runs it does at a time, of all signatures together; where it has none, as many as reach it.
        signatures: What can be called, by name.
        signature_defs: All signatures as a serialized SignatureDefMap, as clients ask for it.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102  told above

    @property
    def in_process(self) -> bool: ...  # noqa: D102  told above

    @property
    def signatures(self) -> Mapping[str, Signature]: ...  # noqa: D102  told above

    @property
    def signature_defs(self) -> bytes: ...  # noqa: D102  told above

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a signature on inputs that were checked against it; may empty `GivenInputs`, no others. Thread-safe.

        Or several that have the same `inputs_id`, by their `joint_name`; then outputs have theirs.

        Raises:
            InvalidInput: the model refused the values.
            Exception: the model failed on its own.
        """
        ...

    def close(self) -> None:
        """Frees the memory. Nothing may run then, nor afterwards."""


_JOINT = "\0"
"""In no name of a signature that comes from a model's file."""


def joint_name(*names: str) -> str:
    """The name of several signatures together; of a signature's output among those of several."""
    return _JOINT.join(names)


def joint_names(name: str) -> list[str]:
    """The signatures that a name stands for; one for one."""
    return name.split(_JOINT)


def own_outputs(signature: str, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Of the outputs of several signatures those of one, by its own names."""
    begin = signature + _JOINT
    return {name.removeprefix(begin): array for name, array in outputs.items() if name.startswith(begin)}


def describe(dtype: np.dtype[np.generic], shape: tuple[int, ...] | None) -> str:
    """`float32 [-1, 8, 8, 1]`, for messages."""
    return f"{'string' if dtype.kind == 'O' else dtype.name} {'of any rank' if shape is None else list(shape)}"
