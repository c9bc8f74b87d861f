"""As much of OpenCV as docs/from-pycoral.md uses, with Pillow and numpy: films are pictures, or files of several."""

from collections.abc import Callable

import numpy as np
from PIL import Image

COLOR_BGR2RGB = 4

before_frame: list[Callable[[int], None]] = []
"""Called with the number of each frame, from 0, before it is taken: what happens to the device meanwhile."""


class VideoCapture:
    def __init__(self, source):
        self._film = Image.open(source)
        self._next = 0

    def isOpened(self):  # noqa: N802  OpenCV's name
        return True

    def read(self):
        if self._next == getattr(self._film, "n_frames", 1):
            return False, None
        for call in before_frame:
            call(self._next)
        self._film.seek(self._next)
        self._next += 1
        return True, np.asarray(self._film.convert("RGB"))[..., ::-1]


def resize(frame, size):
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.BILINEAR))


def cvtColor(frame, code):  # noqa: N802  OpenCV's name
    assert code == COLOR_BGR2RGB
    return np.ascontiguousarray(frame[..., ::-1])
