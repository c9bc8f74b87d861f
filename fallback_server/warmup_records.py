"""Reads TFRecord files: what TensorFlow Serving keeps its recorded requests in. Needs no TensorFlow.

A record is its length (uint64), the masked CRC-32C of those eight bytes, the content, and the content's masked CRC-32C
(uint32 each), little-endian. CRC-32C is Castagnoli's polynomial, reflected: 0x82F63B78 (RFC 3720, appendix B.4).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_POLYNOMIAL = 0x82F63B78
_LANE_BYTES = 512
_SMALL_BYTES = 4096
"""Up to here a loop over bytes is faster than setting up lanes."""

Words = npt.NDArray[np.uint32]


class RecordDamaged(ValueError):
    """The file is cut off, or a checksum does not fit. The text says at which byte."""


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, one after the other.

    Raises:
        RecordDamaged: see there.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        left = path.stat().st_size
        at = 0
        while header := file.read(_HEADER.size):
            if len(header) < _HEADER.size:
                raise RecordDamaged(f"cut off at byte {at}")
            size, checksum = _HEADER.unpack(header)
            if checksum != masked(crc32c(header[:8])):
                raise RecordDamaged(f"the length at byte {at} has another checksum")
            if size > left - at - _HEADER.size - _FOOTER.size:
                raise RecordDamaged(f"the record at byte {at} has {size} bytes, and the file ends before")
            content = file.read(size)
            footer = file.read(_FOOTER.size)
            if len(footer) < _FOOTER.size or _FOOTER.unpack(footer)[0] != masked(crc32c(content)):
                raise RecordDamaged(f"the record at byte {at} has another checksum")
            yield content
            at += _HEADER.size + size + _FOOTER.size


def masked(crc: int) -> int:
    """The checksum as it is stored: of data that holds checksums, a plain one would say little."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C.

    Long data is cut into lanes that are gone through side by side. A checksum is linear: what a lane adds is moved on
    by the lengths of those behind it, and all of it is added up (exclusive or), in pairs.
    """
    if len(data) <= _SMALL_BYTES:
        table = _table().tolist()
        crc = 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    # Zeros before the begin change nothing, and the start value is the same as other first bytes.
    lanes = 1 << (-(-len(data) // _LANE_BYTES) - 1).bit_length()
    padded = np.zeros(lanes * _LANE_BYTES, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[-len(data) :][:4] ^= 0xFF
    columns = np.ascontiguousarray(padded.reshape(lanes, _LANE_BYTES).T)
    table = _table()
    crcs = np.zeros(lanes, np.uint32)
    for column in columns:
        crcs = table[(crcs ^ column) & 0xFF] ^ crcs >> np.uint32(8)
    shift = _lane_shift()
    while len(crcs) > 1:
        crcs = _apply(shift, crcs[0::2]) ^ crcs[1::2]
        shift = _apply(shift, shift)
    return int(crcs[0]) ^ 0xFFFFFFFF


def _apply(matrix: Words, values: Words) -> Words:
    """A linear map, given by what becomes of each bit, on many values."""
    result = np.zeros_like(values)
    for bit in range(32):
        result ^= matrix[bit] * (values >> np.uint32(bit) & np.uint32(1))
    return result


@functools.cache
def _table() -> Words:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, values >> 1 ^ np.uint32(_POLYNOMIAL), values >> 1).astype(np.uint32)
    return values


@functools.cache
def _lane_shift() -> Words:
    """What becomes of each bit over a lane of zeros."""
    table = _table()
    values = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(_LANE_BYTES):
        values = table[values & 0xFF] ^ values >> np.uint32(8)
    return values
