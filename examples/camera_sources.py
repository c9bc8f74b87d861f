"""Where the camera example's frames come from: a camera, a film, or a folder of pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime import InvalidConfig

Pixels = npt.NDArray[np.uint8]
"""[height, width, 3], RGB."""

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")


def frames_of(source: str, fps: float | None, passed_over: Callable[[str], None]) -> Generator[Pixels, None, None]:
    """The source's pictures: a folder's, `picamera2`, or whatever OpenCV opens (a number, a file, an address).

    Args:
        source: What is opened.
        fps: Of a folder: pictures a second; None for as fast as they can be read.
        passed_over: Called with the reason for each picture of a folder that can't be read.

    Raises:
        InvalidConfig: a folder has none.
    """
    if Path(source).is_dir():
        return from_folder(pictures_in(Path(source)), fps, passed_over)
    return from_picamera2() if source == "picamera2" else from_opencv(source)


def pictures_in(folder: Path) -> list[Path]:
    """A folder's pictures in their names' order; InvalidConfig where it has none."""
    try:
        found = sorted(one for one in folder.iterdir() if one.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise InvalidConfig(f"--source {folder}: {error.strerror or error}") from error
    if not found:
        raise InvalidConfig(f"--source {folder}: there is no picture in it ({', '.join(_SUFFIXES)})")
    return found


def from_folder(
    paths: Iterable[Path], fps: float | None, passed_over: Callable[[str], None]
) -> Generator[Pixels, None, None]:
    """The pictures, so many a second; without `fps` as fast as they can be read. One that can't be is passed over."""
    from PIL import Image  # noqa: PLC0415  only for who uses it

    next_s = time.monotonic()
    for path in paths:
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except Exception as error:  # noqa: BLE001  Pillow's decoders raise a dozen kinds for what is damaged
            said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            passed_over(f"{path}: can't be read as a picture: {said}")
            continue
        yield pixels
        if fps is not None:
            next_s += 1 / fps
            time.sleep(max(next_s - time.monotonic(), 0.0))


def from_opencv(source: str) -> Generator[Pixels, None, None]:
    """A camera by its number, a film or a stream."""
    import cv2  # noqa: PLC0415  likewise

    camera = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not camera.isOpened():
            raise SystemExit(f"OpenCV can't open {source!r}")
        while True:
            taken, pixels = camera.read()
            if not taken:
                return
            yield pixels[..., ::-1]
    finally:
        camera.release()


def from_picamera2() -> Generator[Pixels, None, None]:
    """A Raspberry Pi's camera."""
    from picamera2 import Picamera2  # noqa: PLC0415  likewise

    with Picamera2() as camera:
        # Its "BGR888" has red first in memory.
        camera.configure(camera.create_video_configuration(main={"size": (640, 480), "format": "BGR888"}))
        camera.start()
        while True:
            yield camera.capture_array()
