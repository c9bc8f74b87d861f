"""Inputs of which a few bytes on the wire mean many: they are made when a request runs, and counted before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


class LateInputs(dict[str, Array]):
    """Inputs by name, some of which stand in for others that take memory: those are right in dtype and shape alone.

    So a request can be checked, counted and refused before anything is copied for it.

    Attributes:
        more_bytes: What the strings that are made take beyond those that stand in for them. Numbers take as much.
    """

    __slots__ = ("_makers", "more_bytes")

    def __init__(
        self, inputs: Mapping[str, Array], makers: Mapping[str, Callable[[], Array]], *, more_bytes: int = 0
    ) -> None:
        super().__init__(inputs)
        self._makers = makers
        self.more_bytes = more_bytes

    def beside(self, others: Mapping[str, Array]) -> LateInputs:
        """These and others that are there."""
        return LateInputs({**others, **self}, self._makers, more_bytes=self.more_bytes)

    def made(self) -> dict[str, Array]:
        """All inputs as they are meant. Takes the memory, each time."""
        return {name: self._makers[name]() if name in self._makers else array for name, array in self.items()}


def made(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """The inputs as they are meant: those that come late are made."""
    return inputs.made() if isinstance(inputs, LateInputs) else inputs


def size_bytes(inputs: Mapping[str, Array]) -> int:
    """What the inputs' contents take once they are made; of strings, their own bytes and a pointer each."""
    more_bytes = inputs.more_bytes if isinstance(inputs, LateInputs) else 0
    return more_bytes + sum(map(_bytes, inputs.values()))


def _bytes(array: Array) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    if array.size and not any(array.strides):  # One string, as often as there are elements.
        return array.nbytes + array.size * len(array.item(0))
    return array.nbytes + sum(map(len, array.reshape(-1).tolist()))
