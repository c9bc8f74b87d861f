"""Reads TFRecord files of tf.Example."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from converter.artifact import VARIABLE, TensorSpec
from converter.data.dataset import LABELS
from converter.data.samples import SampleWriter
from converter.errors import DataInvalid

_LABEL_NAMES = (LABELS, "label")

_GZIP_MAGIC = b"\x1f\x8b"

_HEADER_BYTES = 12
"""A record begins with its length, 8 bytes little-endian, and their checksum, 4 bytes."""

_CRC32C_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reversed: RFC 3720, appendix B.4."""

_MASK_DELTA = 0xA282EAD8
"""TFRecord stores checksums rotated right by 15 bits plus this: tensorflow.org/tutorials/load_data/tfrecord."""


def is_tfrecord(path: Path) -> bool:
    """Whether the file begins as a TFRecord: with a length and the checksum of that length."""
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == _GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    if len(header) < _HEADER_BYTES:
        return False
    return header[8:] == struct.pack("<I", _masked_crc(header[:8]))


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC32C_POLYNOMIAL if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def read(path: Path, writer: SampleWriter) -> None:
    """Takes every record as one sample; needs TensorFlow.

    Raises:
        DataInvalid: a record is damaged or no tf.Example, or a feature does not fit the input.
    """
    inputs = {spec.name: spec for spec in writer.signature.inputs}
    label_names = [name for name in _LABEL_NAMES if name not in inputs]
    for features in _examples(path):
        at = f"{path}: sample {writer.samples}"
        labels = [features.pop(name) for name in label_names if name in features]
        if len(labels) > 1:
            raise DataInvalid(f"{at} has a feature `label` and one `labels`; one of them is needed")
        values = {
            name: _value(f"{at}: {name}", feature, inputs[name], writer) if name in inputs else feature
            for name, feature in features.items()
        }
        writer.add(values, labels[0] if labels else None)


def _examples(path: Path) -> Iterator[dict[str, Any]]:
    """The features of each record by name: arrays of int64 or float32, or a list of bytes."""
    import tensorflow as tf  # noqa: PLC0415  only in a child
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    with path.open("rb") as file:
        compression = "GZIP" if file.read(2) == _GZIP_MAGIC else ""
    records = iter(tf.data.TFRecordDataset(str(path), compression_type=compression).as_numpy_iterator())
    index = 0
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise DataInvalid(f"{path}: record {index} is damaged: {error.message}") from error
        try:
            example = tf.train.Example.FromString(record)
        except DecodeError as error:
            raise DataInvalid(f"{path}: record {index} is no tf.Example: {error}") from error
        yield {name: _feature(feature) for name, feature in example.features.feature.items()}
        index += 1


def _feature(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    if kind == "bytes_list":
        return list(feature.bytes_list.value)
    if kind == "float_list":
        return np.array(feature.float_list.value, dtype=np.float32)
    return np.array(feature.int64_list.value if kind else [], dtype=np.int64)


def _value(what: str, feature: Any, spec: TensorSpec, writer: SampleWriter) -> Any:
    """A feature, which is a flat list, in the input's shape."""
    shape = spec.shape[1:] if writer.keeps_axis else spec.shape
    if isinstance(feature, list):
        if spec.dtype == "string":
            return _shaped(what, np.array(feature, dtype=object), shape)
        if len(feature) != 1:
            raise DataInvalid(f"{what} has {len(feature)} byte strings; one is needed")
        return feature[0]
    # All-integer features may feed a smaller integer dtype, a boolean too.
    array = feature.astype(bool) if spec.dtype == "bool" and set(feature.tolist()) <= {0, 1} else feature
    return _shaped(what, array, shape)


def _shaped(what: str, flat: Any, shape: tuple[int, ...]) -> Any:
    fixed = math.prod(dim for dim in shape if dim != VARIABLE)
    variable = shape.count(VARIABLE)
    if variable > 1:
        raise DataInvalid(f"{what}: a flat feature can't fill the {variable} variable dimensions of {list(shape)}")
    if (variable and flat.size % fixed) or (not variable and flat.size != fixed):
        raise DataInvalid(f"{what} has {flat.size} values, the model needs {'a multiple of ' * variable}{fixed}")
    return flat.reshape(shape)
