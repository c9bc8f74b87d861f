"""Integers as protobuf packs them in a repeated field: varints, one after the other, as its wire format has them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Buffer = bytes | bytearray | memoryview

_CHUNK = 2**14
"""Integers that are packed at a time: what that takes besides stays in the processor's cache."""

_PIECE_BYTES = 2**20
"""So much is parsed at a time: protobuf's copy of it is small, and other threads run in between."""

_MAX_VARINT_BYTES = 10

_MAX_LENGTH_BYTES = 5
"""Of a varint of 32 bits, as lengths are."""


def varint(value: int) -> bytes:
    """A number of at least 0 as protobuf writes lengths and tags: 7 bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack(values: Array) -> list[Buffer]:
    """Integers or bools -> their varints, in pieces that follow each other; negative ones in ten bytes, as int64.

    Where each fits in seven bits, as bools do, a byte is a varint, and bytes are not even copied.

    Args:
        values: 1-D, contiguous.
    """
    if values.dtype == np.bool_:
        return [values.view(np.uint8).data]
    if not values.size or (values.min() >= 0 and values.max() < 0x80):
        return [values.astype(np.uint8, copy=False).data]
    return [_pack_chunk(values[begin : begin + _CHUNK]) for begin in range(0, len(values), _CHUNK)]


def _pack_chunk(values: Array) -> bytes:
    """A column for each byte that the largest needs, and then, row by row, the bytes that each has."""
    left = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64).view(np.uint64)
    columns = -(-int(left.max()).bit_length() // 7) or 1
    out = np.empty((len(left), columns), np.uint8)
    there = np.empty((len(left), columns), np.bool_)
    for column in range(columns):
        there[:, column] = left != 0
        more = left >> np.uint64(7)
        out[:, column] = (left & np.uint64(0x7F)).astype(np.uint8) | (more != 0).view(np.uint8) << 7
        left = more
    there[:, 0] = True
    return out[there].tobytes()


def pieces(packed: Buffer) -> Iterator[memoryview]:
    """Cuts varints into pieces of about 1 MiB, between two of them."""
    view = memoryview(packed)
    begin = 0
    while begin < len(view):
        end = min(begin + _PIECE_BYTES, len(view))
        for _ in range(_MAX_VARINT_BYTES):  # One that is longer is refused by whoever parses it.
            if end == len(view) or view[end - 1] < 0x80:
                break
            end -= 1
        yield view[begin:end]
        begin = end


def lengths(data: Buffer, count: int) -> tuple[Array, int] | None:
    """The first varints of some bytes, each of 32 bits; None where there are not as many, or one is longer.

    Returns:
        int64 of shape (count,), and at which byte they end.
    """
    head = np.frombuffer(data, np.uint8)[: count * _MAX_LENGTH_BYTES]
    ends = np.flatnonzero(head < 0x80)[:count] + 1
    if len(ends) < count:
        return None
    begins = np.concatenate(([0], ends[:-1])) if count else ends
    sizes = ends - begins
    if sizes.max(initial=0) > _MAX_LENGTH_BYTES:
        return None
    values = np.zeros(count, np.int64)
    for column in range(int(sizes.max(initial=0))):
        there = sizes > column
        values[there] |= (head[begins[there] + column] & 0x7F).astype(np.int64) << 7 * column
    return values & 0xFFFFFFFF, int(ends[-1]) if count else 0
