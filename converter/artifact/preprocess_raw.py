"""Raw values as they are handed in: one sample, a batch, or a list of samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.artifact.errors import RawInvalid


def is_bytes(item: Any) -> bool:
    """Whether it is the content of a file."""
    return isinstance(item, bytes | bytearray | memoryview)


def items_of(raw: Any) -> tuple[Sequence[Any], bool]:
    """What is to be taken apart one by one, and whether each item is one sample: a list of bytes or arrays is."""
    if isinstance(raw, list | tuple) and any(is_bytes(one) or isinstance(one, np.ndarray) for one in raw):
        return raw, True
    return [raw], False


@contextlib.contextmanager
def sample(index: int, *, many: bool = True) -> Iterator[None]:
    """Names the sample in what is raised, where there are several."""
    try:
        yield
    except RawInvalid as error:
        raise (RawInvalid(f"sample {index}: {error}") if many else error) from error


def numbers(item: Any, what: str) -> npt.NDArray[Any]:
    """An array of numbers.

    Raises:
        RawInvalid: it is none; `what` says what it should be.
    """
    if isinstance(item, str):
        raise RawInvalid(f"{what}, got a str; a file is given by its bytes")
    try:
        array: npt.NDArray[Any] = np.asarray(item)
    except (TypeError, ValueError) as error:
        raise RawInvalid(f"{what}, got no array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise RawInvalid(f"{what}, got {array.dtype}{list(array.shape)}")
    return array
