"""Arrays in memory that two processes share.

An arena is an anonymous file (memfd) that both have mapped: it has no name in /dev/shm, so that it is gone with the
last process that has it, however that ended. It grows and never shrinks, which the kernel holds it to (F_SEAL_SHRINK):
neither side can be made to read past the end of the file.

A layout says which arrays lie where in it. Numbers lie there as they are, aligned. An array of strings (`object`, of
bytes or text; text becomes UTF-8) lies there as the lengths of its elements, uint32, followed by their bytes.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections.abc import Sequence

import msgspec
import numpy as np

from edge_runtime.types import Array, Arrays

MAX_ARENA_BYTES = 2**30
"""All inputs, or all outputs, of one run. The largest that devices of this kind see, a batch of 4K images in float32,
has 100 MB."""

_ALIGNMENT_BYTES = 64
"""A cache line; no vector instruction wants more."""

_MIN_ARENA_BYTES = 2**16

STRING = "string"

_KINDS = frozenset("biufcSU")
"""Of dtypes whose bytes are their values. Also of fixed-size strings."""

_LENGTH = np.dtype("<u4")

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where an array lies.

    Attributes:
        name: The tensor's.
        dtype: As numpy writes it (`<f4`), or `string`.
        shape: Its sizes, all at least 0.
        at: Bytes from the beginning of the arena.
        size_bytes: How many it has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    at: int
    size_bytes: int


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """Where several arrays lie.

    Attributes:
        places: Of each.
        end: Where the first byte behind them is, aligned.
    """

    places: tuple[Place, ...]
    end: int

    @property
    def fixed(self) -> bool:
        """Whether arrays of the same shapes and dtypes always have this layout: not where strings are among them."""
        return all(place.dtype != STRING for place in self.places)


class Arena:
    """Shared memory, as one process has it. One caller at a time.

    Attributes:
        descriptor: Of the file.
        generation: How often it was mapped: views of an earlier mapping are of no use.
    """

    def __init__(self, descriptor: int) -> None:
        """Takes an arena's file, which is closed with it; what it has is mapped when `reach` asks for it."""
        self.descriptor = descriptor
        self.generation = 0
        self._map: mmap.mmap | None = None
        self._size = 0

    def __repr__(self) -> str:
        return f"<Arena of {self._size} bytes>"

    @classmethod
    def make(cls, name: str) -> Arena:
        """A new and empty one; /proc shows the name."""
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return cls(descriptor)

    @property
    def size_bytes(self) -> int:
        """What is mapped here."""
        return self._size

    def reserve(self, size_bytes: int) -> None:
        """Makes it at least that large.

        Raises:
            ValueError: that is beyond `MAX_ARENA_BYTES`.
        """
        if size_bytes <= self._size:
            return
        if size_bytes > MAX_ARENA_BYTES:
            raise ValueError(f"the arrays of a run have {size_bytes} bytes; at most {MAX_ARENA_BYTES} can be shared")
        # By powers of two, so that sizes that creep up are not mapped anew each time; pages cost nothing until used.
        size = max(_MIN_ARENA_BYTES, 1 << (size_bytes - 1).bit_length())
        os.ftruncate(self.descriptor, size)
        self._remap(size)

    def reach(self, size_bytes: int) -> None:
        """Maps what the other side has made of it.

        Raises:
            ValueError: the file does not have so many bytes.
        """
        if size_bytes <= self._size:
            return
        if size_bytes > os.fstat(self.descriptor).st_size:
            raise ValueError(f"a shared file has fewer than {size_bytes} bytes")
        self._remap(size_bytes)

    def write(self, at: int, content: bytes) -> None:
        """Puts bytes there; `reserve` comes first."""
        assert self._map is not None
        self._map[at : at + len(content)] = content

    def read(self, at: int, size_bytes: int) -> bytes:
        """A copy of bytes.

        Raises:
            ValueError: some of them are outside.
        """
        if self._map is None or at + size_bytes > self._size:
            raise ValueError(f"bytes {at} to {at + size_bytes} are not in an arena of {self._size}")
        return self._map[at : at + size_bytes]

    def views(self, layout: Layout) -> Arrays:
        """The arrays of a layout, as views; of strings, their bytes as uint8.

        Raises:
            ValueError, TypeError: the layout is none, or reaches beyond the arena.
        """
        return {place.name: self._view(place) for place in layout.places}

    def close(self) -> None:
        """Lets go of it; its memory goes with the last view. Again: does nothing."""
        if self.descriptor < 0:
            return
        self._map, self._size = None, 0
        os.close(self.descriptor)
        self.descriptor = -1

    def _view(self, place: Place) -> Array:
        dtype, shape = (np.dtype(np.uint8), (place.size_bytes,)) if place.dtype == STRING else _typed(place)
        if self._map is None or place.at < 0 or place.at + place.size_bytes > self._size:
            raise ValueError(f"tensor {place.name!r} is not inside an arena of {self._size} bytes")
        return np.ndarray(shape, dtype, self._map, place.at)

    def _remap(self, size: int) -> None:
        # The mapping before it is not closed: that would end views of it that somebody has, and this process with the
        # next one who looks. It goes with the last of them.
        self._map = mmap.mmap(self.descriptor, size)
        self._size = size
        self.generation += 1


class Lane:
    """Where a set of arrays lies in an arena, and views of them, which are made anew when the arena has grown.

    Attributes:
        layout: Where they lie.
    """

    __slots__ = ("_generation", "_views", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._views: Arrays = {}
        self._generation = 0

    def views(self, arena: Arena) -> Arrays:
        """The arrays, in the arena's memory as it is now."""
        if self._generation != arena.generation:
            self._views, self._generation = arena.views(self.layout), arena.generation
        return self._views

    def let_go(self) -> None:
        """Drops the views, whoever keeps this: the memory goes with the last of them, and its descriptor with that."""
        self._views.clear()
        self._generation = 0


def sealed(content: bytes) -> int:
    """A descriptor of memory that holds the content and can't be changed."""
    descriptor = os.memfd_create("edge-model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        at = 0
        while at < len(content):
            # Not at the file's position: the worker reads from there, and shares it.
            at += os.pwrite(descriptor, memoryview(content)[at:], at)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lay_out(arrays: Arrays) -> tuple[Layout, list[bytes | None]]:
    """A layout for these arrays from the beginning of an arena on, and the bytes of those that are strings.

    Raises:
        TypeError: an array's dtype is neither of numbers nor of strings.
    """
    places = []
    contents: list[bytes | None] = []
    at = 0
    for name, array in arrays.items():
        content = None
        if array.dtype.hasobject:
            content = _packed(name, array)
            dtype, size = STRING, len(content)
        elif array.dtype.kind in _KINDS:
            dtype, size = array.dtype.str, array.nbytes
        else:
            raise TypeError(f"tensor {name!r} is of {array.dtype}, neither numbers nor strings")
        places.append(Place(name, dtype, array.shape, at, size))
        contents.append(content)
        at += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return Layout(tuple(places), at), contents


def fill(views: Arrays, arrays: Arrays, contents: Sequence[bytes | None] | None = None) -> None:
    """Copies arrays into their views; arrays need not be contiguous.

    Args:
        views: As of `Arena.views`.
        arrays: Of the layout's shapes and dtypes.
        contents: As of `lay_out`; None where no array is of strings.
    """
    if contents is None:
        for name, view in views.items():
            np.copyto(view, arrays[name], casting="no")
        return
    for (name, view), content in zip(views.items(), contents, strict=True):
        np.copyto(view, arrays[name] if content is None else np.frombuffer(content, np.uint8), casting="no")


def taken(layout: Layout, views: Arrays) -> Arrays:
    """Copies of the arrays in the views; strings as `object` arrays of bytes.

    Raises:
        ValueError: what should be strings is none.
    """
    return {
        place.name: _unpacked(place, views[place.name]) if place.dtype == STRING else views[place.name].copy()
        for place in layout.places
    }


def given(layout: Layout, views: Arrays) -> Arrays:
    """What a run is given: views of numbers, and copies of strings.

    Raises:
        ValueError: what should be strings is none.
    """
    if layout.fixed:
        return views
    return {
        place.name: _unpacked(place, views[place.name]) if place.dtype == STRING else views[place.name]
        for place in layout.places
    }


def _typed(place: Place) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    dtype = np.dtype(place.dtype)
    if dtype.kind not in _KINDS or any(size < 0 for size in place.shape):
        raise ValueError(f"tensor {place.name!r}: no array is {place.dtype}{list(place.shape)}")
    if math.prod(place.shape) * dtype.itemsize != place.size_bytes:
        raise ValueError(
            f"tensor {place.name!r}: {place.dtype}{list(place.shape)} does not have {place.size_bytes} bytes"
        )
    return dtype, place.shape


def _packed(name: str, array: Array) -> bytes:
    elements = [_bytes(name, one) for one in array.ravel().tolist()]
    lengths = np.fromiter(map(len, elements), _LENGTH, len(elements))
    return b"".join((lengths.tobytes(), *elements))


def _bytes(name: str, element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    raise TypeError(f"tensor {name!r} holds a {type(element).__name__} among its strings")


def _unpacked(place: Place, raw: Array) -> Array:
    count = math.prod(place.shape)
    start = count * _LENGTH.itemsize
    if any(size < 0 for size in place.shape) or start > raw.size:
        raise ValueError(f"tensor {place.name!r}: {raw.size} bytes can't be {count} strings")
    content = raw.tobytes()
    ends = start + np.cumsum(np.frombuffer(content, _LENGTH, count), dtype=np.uint64)
    if count and ends[-1] != len(content):
        raise ValueError(f"tensor {place.name!r}: its strings do not fill its {len(content)} bytes")
    strings = np.empty(count, object)
    for index, end in enumerate(ends.tolist()):
        strings[index] = content[start:end]
        start = end
    return strings.reshape(place.shape)
