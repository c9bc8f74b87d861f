"""Samples for a model in every form that data come in, and functions that yield them. TensorFlow only in a child."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np


def png(pixels):
    """A PNG of uint8 pixels [height, width, 3] or [height, width], written here: no library decides what is in it."""
    array = np.asarray(pixels, np.uint8)
    colour = 2 if array.ndim == 3 else 0
    rows = b"".join(b"\0" + row.tobytes() for row in array)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey(value, size=4):
    """A PNG of one grey value."""
    return png(np.full((size, size, 3), value))


def write_tfrecord(path, records, *, compression=""):
    """Writes tf.Example records; each is a dict of lists of floats, integers or bytes, or raw bytes."""
    import tensorflow as tf

    def feature(values):
        first = values[0] if values else 0
        if isinstance(first, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(first, float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    with tf.io.TFRecordWriter(str(path), compression or None) as writer:
        for record in records:
            if isinstance(record, dict):
                features = {name: feature(values) for name, values in record.items()}
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
            else:
                writer.write(record)


def read_image(raw):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def rows():
    """Three labelled samples, each without the batch axis."""
    for index in range(3):
        yield {"in0": np.full(3, index, np.float32), "labels": index}


def batches():
    """The same, the last two together."""
    yield {"in0": np.zeros((1, 3), np.float32), "labels": [0]}
    yield {"in0": np.array([[1, 1, 1], [2, 2, 2]], np.float32), "labels": [1, 2]}


def endless():
    while True:
        yield {"in0": np.zeros(3, np.float32)}


def late_nan():
    yield {"in0": np.zeros((5, 3), np.float32)}
    yield {"in0": np.array([0, np.nan, 0], np.float32)}


def fails_later():
    yield {"in0": np.zeros(3, np.float32)}
    raise RuntimeError("the camera is gone\nand more")


def words():
    yield {"in0": ["a", "longer"]}
    yield {"in0": [b"\xc3\xa9", "z"]}


def of_lists():
    yield [1, 2, 3]


def growing():
    yield {"in0": np.zeros((1, 3), np.float32)}
    yield {"in0": np.zeros((1, 4), np.float32)}


def label_lost():
    yield {"in0": np.zeros(3), "labels": 1}
    yield {"in0": np.zeros(3)}


def label_found():
    yield {"in0": np.zeros(3)}
    yield {"in0": np.zeros(3), "labels": 1}


def float_label():
    yield {"in0": np.zeros(3), "labels": 0.5}


def extra_input():
    yield {"in0": np.zeros(3), "mask": 1}


def pictures():
    yield {"in0": grey(10), "labels": 0}
    yield {"in0": grey(20), "labels": 1}


def nothing():
    return iter(())


NOT_CALLABLE = 3


def share_right(original, variant, labels):
    """A metric: how many largest scores are at the labels."""
    return float((variant.argmax(axis=1) == labels).mean())


def not_finite(original, variant, labels):
    return float("nan")


def folder_of_images(folder, files):
    """Writes files by path below the folder."""
    for name, data in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Path(folder)


def ends():
    """A function of a user's that ends its process."""
    os._exit(3)
    yield
