"""Sound: the bytes of a WAV file or arrays -> samples in -1..1, whole or in frames."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.artifact.errors import RawInvalid
from converter.artifact.preprocess_raw import is_bytes, items_of, numbers, sample

_Array = npt.NDArray[Any]
_Floats = npt.NDArray[np.float32]


def decode_wav(data: bytes, rate_hz: int | None) -> _Floats:
    """The bytes of a WAV file of 8, 16, 24 or 32-bit integers -> float32 [samples] in -1..1, the channels' average.

    Args:
        data: The file's content.
        rate_hz: Its sample rate must be this; None for any.

    Raises:
        RawInvalid: no such file, cut off, without samples, or of another sample rate.
    """
    import wave  # noqa: PLC0415  only where sound is decoded

    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            frames = file.getnframes()
            content = file.readframes(frames)
    except (wave.Error, EOFError, RuntimeError) as error:
        raise RawInvalid(f"{len(data)} bytes are no WAV of integers: {str(error) or 'cut off'}") from error
    if rate_hz is not None and rate != rate_hz:
        raise RawInvalid(f"the WAV has {rate} samples a second, the model takes {rate_hz}")
    if width not in (1, 2, 3, 4):
        raise RawInvalid(f"the WAV has samples of {width} bytes; 1 to 4 are decoded")
    if not frames or len(content) != frames * channels * width:
        raise RawInvalid(f"the WAV has {len(content)} bytes of samples, its header says {frames * channels * width}")
    mono: _Floats = pcm(_integers(content, width).reshape(-1, channels)).mean(axis=1, dtype=np.float32)
    return mono


def _integers(content: bytes, width: int) -> _Array:
    if width != 3:
        return np.frombuffer(content, {1: "<u1", 2: "<i2", 4: "<i4"}[width])
    wide = np.zeros((len(content) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
    return wide.reshape(-1).view("<i4")


def pcm(samples: _Array) -> _Floats:
    """Integers as sound cards give them -> float32 in -1..1, by their dtype's range; floats stay as they are."""
    if samples.dtype.kind not in "iu":
        return samples.astype(np.float32, copy=False)
    half = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    values = samples.astype(np.float32) / half
    return values - np.float32(1) if samples.dtype.kind == "u" else values


def clips_of(raw: Any, rate_hz: int | None, *, decodes: bool) -> list[_Floats]:
    """Raw values -> clips [samples].

    Args:
        raw: Bytes of a WAV where they are decoded; an array [samples] or [clips, samples], of integers that are taken
            as `pcm` says where WAV is decoded too; or a list of such, one clip each.
        rate_hz: See `decode_wav`; arrays are believed to have it.
        decodes: Whether bytes are taken.

    Raises:
        RawInvalid: see `decode_wav`; also what is no sound.
    """
    items, many = items_of(raw)
    clips: list[_Floats] = []
    for index, item in enumerate(items):
        with sample(index, many=many):
            if is_bytes(item) and decodes:
                clips.append(decode_wav(bytes(item), rate_hz))
            else:
                clips.extend(_from_array(item, one=many, decodes=decodes))
    if not clips:
        raise RawInvalid("it got no sound")
    return clips


def _from_array(item: Any, *, one: bool, decodes: bool) -> list[_Floats]:
    array = numbers(item, f"a clip is {'the bytes of a WAV or ' if decodes else ''}an array of numbers")
    if array.ndim not in ((1,) if one else (1, 2)):
        raise RawInvalid(f"a clip has the axis [samples], got {array.dtype}{list(array.shape)}")
    values = pcm(array) if decodes else array.astype(np.float32)
    return [values] if array.ndim == 1 else list(values)


def framed(clip: _Floats, frame: int | None, hop: int | None) -> _Floats:
    """[samples] -> [frames, frame], one every `hop` samples (None: every `frame`); the rest at the end is left out.

    Raises:
        RawInvalid: the clip is shorter than a frame.
    """
    if frame is None:
        return clip
    if len(clip) < frame:
        raise RawInvalid(f"the clip has {len(clip)} samples, a frame {frame}")
    return np.lib.stride_tricks.sliding_window_view(clip, frame)[:: hop or frame]
