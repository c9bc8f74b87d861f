"""Images: bytes or arrays -> pixels of the size and the colours that the model takes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from converter.artifact.errors import DecoderMissing, RawInvalid
from converter.artifact.preprocess_raw import is_bytes, items_of, numbers, sample
from converter.artifact.preprocess_resize import MAX_SIDE, Method, resize

Color = Literal["rgb", "bgr", "gray"]
Fit = Literal["stretch", "crop", "pad"]
Window = tuple[int, int, int, int]
"""Top, left, height, width, in pixels."""

MAX_IMAGE_PIXELS = 2**26
"""The largest cameras of small boards have 64 million; a file of a few bytes can claim to hold more."""

CHANNELS: dict[Color, int] = {"rgb": 3, "bgr": 3, "gray": 1}

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded. Pillow knows more, and starts other programs for some of them."""

_EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
"""Pillow's modes of 8 bits a channel; it cuts others off at 255 when it converts them."""

_BAND_PIXELS = 2**20
"""How many pixels are taken out of an image at a time."""

_UPRIGHT: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}
"""EXIF's orientations: what puts an image upright. 1 is upright; of others nothing is known."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601: the weights of red, green and blue in gray."""

_Array = npt.NDArray[Any]


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """The bytes of a JPEG, PNG, WebP, BMP, GIF, PPM or TIFF -> uint8 [height, width, 3], red first.

    The orientation that the camera wrote (EXIF) is applied, transparency is dropped, of several frames the first is
    taken.

    Raises:
        DecoderMissing: Pillow is not installed.
        RawInvalid: no such image, damaged, of more than `MAX_IMAGE_PIXELS`, or of other than 8 bits a channel.
    """
    try:
        from PIL import ExifTags, Image, UnidentifiedImageError  # noqa: PLC0415  only where images are decoded
    except ImportError as error:
        raise DecoderMissing("decoding images needs Pillow: pip install 'edge-runtime[images]'") from error
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image.size, image.mode)
            pixels = _pixels(image)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return np.ascontiguousarray(_UPRIGHT[orientation](pixels)) if orientation in _UPRIGHT else pixels
    except RawInvalid:
        raise
    except UnidentifiedImageError as error:
        raise RawInvalid(f"{len(data)} bytes are no image of a kind out of {', '.join(_FORMATS)}") from error
    except Exception as error:  # its decoders raise a dozen kinds for what is damaged
        said = " ".join(str(error).split()) or type(error).__name__
        raise RawInvalid(f"the image can't be decoded: {said}") from error


def _pixels(image: Any) -> npt.NDArray[np.uint8]:
    """A Pillow image -> uint8 [height, width, 3].

    By bands of rows: what Pillow makes of a whole image at once, in other colours and as bytes, is four times as large.
    """
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(band.convert("RGB"), dtype=np.uint8)
    return pixels


def _check_header(size: tuple[int, int], mode: str) -> None:
    """Looks at what the file's header says, before memory is taken for it."""
    width, height = size
    if width * height > MAX_IMAGE_PIXELS or max(size) > MAX_SIDE:
        raise RawInvalid(
            f"the image has {height} x {width} pixels; at most {MAX_IMAGE_PIXELS} are decoded, "
            f"and {MAX_SIDE} along a side"
        )
    if mode not in _EIGHT_BIT:
        raise RawInvalid(f"the image has pixels of the kind {mode}; 8 bits a channel are decoded")


def images_of(raw: Any, color: Color, *, decodes: bool) -> tuple[list[_Array], Color]:
    """Raw values -> images [height, width, channels], and the order of their colours.

    Args:
        raw: Bytes of one image where they are decoded; an array [height, width, channels], or with a batch axis before
            that; or a list of such, one sample each. Gray arrays may lack the last axis.
        color: The colours of arrays.
        decodes: Whether bytes are taken.

    Raises:
        DecoderMissing, RawInvalid: see `decode_image`; also what is no image, or bytes and arrays of other colours in
            one list.
    """
    items, many = items_of(raw)
    images: list[_Array] = []
    kinds: set[Color] = set()
    for index, item in enumerate(items):
        with sample(index, many=many):
            if is_bytes(item) and decodes:
                images.append(decode_image(bytes(item)))
                kinds.add("rgb")
            else:
                images.extend(_from_array(item, color, one=many, decodes=decodes))
                kinds.add(color)
    if not images:
        raise RawInvalid("it got no image")
    if len(kinds) > 1:
        raise RawInvalid(f"it got bytes, which decode to rgb, and arrays of {color} in one list")
    return images, kinds.pop()


def _from_array(item: Any, color: Color, *, one: bool, decodes: bool) -> list[_Array]:
    array = numbers(item, f"an image is {'the bytes of a file or ' if decodes else ''}an array of numbers")
    if array.ndim == 2 or (color == "gray" and array.ndim == 3 and array.shape[-1] != 1):
        array = array[..., None]
    if array.ndim == 3:
        return [array]
    if array.ndim != 4 or one:
        raise RawInvalid(f"an image has the axes [height, width, channels], got {list(array.shape)}")
    return list(array)


def crop(image: _Array, window: float | Window | None) -> _Array:
    """The middle of an image, a fraction of each side, as `tf.image.central_crop`; or a window of it.

    Raises:
        RawInvalid: the window is not inside.
    """
    if window is None:
        return image
    height, width = image.shape[:2]
    if isinstance(window, float | int):
        top, left = int((height - height * window) / 2), int((width - width * window) / 2)
        return image[top : height - top, left : width - left]
    top, left, rows, columns = window
    if top + rows > height or left + columns > width:
        raise RawInvalid(f"crop {list(window)} reaches beyond the image's {height} x {width} pixels")
    return image[top : top + rows, left : left + columns]


def fitted(image: _Array, size: tuple[int, int], fit: Fit, pad: float, scaled: Callable[..., _Array]) -> _Array:
    """The image in `size` = (height, width), made by `scaled(image, size)`.

    `stretch` changes the sides' ratio. `crop` keeps it, and cuts what is too much off both ends. `pad` keeps it too,
    and fills what is missing with `pad`, as `tf.image.resize_with_pad` but exactly, where
    that is a pixel off by its float32.
    """
    if fit == "stretch":
        return scaled(image, size)
    height, width = image.shape[:2]
    if not height or not width:
        return scaled(image, size)
    if fit == "crop":
        rows = min(height, max(1, width * size[0] // size[1]))
        columns = min(width, max(1, height * size[1] // size[0]))
        top, left = (height - rows) // 2, (width - columns) // 2
        return scaled(image[top : top + rows, left : left + columns], size)
    inner = min(size[0], max(1, height * size[1] // width)), min(size[1], max(1, width * size[0] // height))
    made = scaled(image, inner)
    # Half of what the exact size, with its fraction, leaves over.
    top = max(0, (size[0] * width - height * size[1]) // (2 * width))
    left = max(0, (size[1] * height - width * size[0]) // (2 * height))
    integral = made.dtype.kind in "iu" and float(pad).is_integer()
    whole = np.full((*size, image.shape[2]), pad, made.dtype if integral else np.float32)
    whole[top : top + inner[0], left : left + inner[1]] = made
    return whole


def recolored(image: _Array, have: Color, want: Color) -> _Array:
    """The image [height, width, channels] in other colours; gray is float32, and not rounded.

    Raises:
        RawInvalid: it has another number of channels than its colours have.
    """
    if have == want:
        return image
    if image.shape[-1] != CHANNELS[have]:
        raise RawInvalid(f"{have} has {CHANNELS[have]} channels, the image has the shape {list(image.shape)}")
    if want == "gray":
        weights = _LUMA if have == "rgb" else _LUMA[::-1]
        gray: _Array = image.astype(np.float32, copy=False) @ weights[:, None]
        return gray
    return np.repeat(image, 3, axis=-1) if have == "gray" else image[..., ::-1]


def geometry(
    image: _Array,
    *,
    window: float | Window | None,
    size: tuple[int, int] | None,
    method: Method,
    antialias: bool,
    fit: Fit,
    pad: float,
) -> _Array:
    """Crops, then resizes."""
    image = crop(image, window)
    if size is None:
        return image

    def scaled(part: _Array, wanted: tuple[int, int]) -> _Array:
        return resize(part, wanted, method, antialias=antialias)

    return fitted(image, size, fit, pad, scaled)
