"""Small pictures of samples, where an input looks like an image."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np

from converter.artifact import Signature
from converter.data import Array, Dataset

SIDE = 96
"""Pixels of the longer side at most."""

_MIN_SIDE, _MAX_SIDE = 8, 2_048
"""Smaller is a table of numbers, larger is no image of a network's input."""


def image_input(dataset: Dataset) -> str | None:
    """The input whose samples look like images, numbers [height, width, 1 or 3]; the first by name, None if none do."""
    for name, array in sorted(dataset.arrays().items()):
        if _is_image(array.shape[1:]) and array.dtype.kind in "fiub":
            return name
    return None


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] in (1, 3) and all(_MIN_SIDE <= side <= _MAX_SIDE for side in shape[:2])


def make(dataset: Dataset, signature: Signature, samples: Iterable[int]) -> dict[int, bytes]:
    """By sample, a PNG whose sides have at most `SIDE` pixels; each one is scaled from its least to its largest value.

    Empty where no input looks like an image, or Pillow, which writes them, is not installed: pictures help to
    understand, and nothing depends on them.

    Args:
        dataset: The samples.
        signature: Whose inputs they are.
        samples: Indices; those that the dataset does not have are left out.
    """
    name = image_input(dataset)
    if name is None or name not in {spec.name for spec in signature.inputs}:
        return {}
    try:
        import PIL.Image  # noqa: F401, PLC0415  loaded where it is used, and only there
    except ImportError:
        return {}
    array = dataset.arrays()[name]
    return {index: _png(np.asarray(array[index])) for index in sorted(set(samples)) if 0 <= index < len(array)}


def _png(image: Array) -> bytes:
    """The image, [height, width, 1 or 3], as a PNG."""
    from PIL import Image  # noqa: PLC0415  see `make`

    pixels = pixels_of(image)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=False)
    return file.getvalue()


def pixels_of(image: Array) -> Array:
    """Any numbers -> uint8 of the same shape, the least 0 and the largest 255; an even image is grey."""
    values = np.nan_to_num(image.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    # Halved: the range of two large doubles can pass the largest, and half of the smallest is nothing.
    low, high = float(values.min()) / 2, float(values.max()) / 2
    if not high > low:
        return np.full(image.shape, 128, np.uint8)
    scaled: Array = np.rint(np.clip((values / 2 - low) / (high - low), 0.0, 1.0) * 255).astype(np.uint8)
    return scaled
