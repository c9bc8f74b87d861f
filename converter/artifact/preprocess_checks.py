"""The bounds of preprocessing's settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from converter.artifact.errors import ManifestInvalid
from converter.artifact.signature import DTYPES

if TYPE_CHECKING:
    from converter.artifact.preprocess import InputPreprocess

MAX_RESIZE = 8_192
"""Pixels along a side: no model takes more, and four such images fit a board's memory."""

MAX_RATE_HZ = 768_000
"""The fastest sound cards."""

MAX_FRAME = 2**24
"""Samples; five minutes of CD sound."""


def check_step(step: InputPreprocess) -> None:
    """Refuses settings that are out of their bounds, or that don't go together.

    Raises:
        ManifestInvalid: with the setting, its bound and its value.
    """
    _check_numbers(step)
    _check_geometry(step)
    _check_sound(step)
    _check_kinds(step)
    names = [field.name for field in step.fields]
    _require(len(set(names)) == len(names), f"fields must have different names, got {names}")
    _require(step.dtype is None or step.dtype in DTYPES, f"dtype must be one of {sorted(DTYPES)}, got {step.dtype!r}")


def _require(fine: bool, text: str) -> None:  # noqa: FBT001  what is required comes first
    if not fine:
        raise ManifestInvalid(f"preprocessing: {text}")


def _check_numbers(step: InputPreprocess) -> None:
    _require(math.isfinite(step.scale) and step.scale != 0, f"scale must be finite and not 0, got {step.scale}")
    _require(all(math.isfinite(value) for value in step.mean), f"mean must be finite, got {step.mean}")
    _require(
        all(math.isfinite(value) and value > 0 for value in step.std),
        f"std must be finite and above 0, got {step.std}",
    )


def _check_geometry(step: InputPreprocess) -> None:
    crop = step.crop
    if isinstance(crop, tuple):
        _require(
            min(crop[:2]) >= 0 and min(crop[2:]) >= 1,
            f"crop must be [top, left, height, width] of 0, 0, 1, 1 or more, got {list(crop)}",
        )
    elif crop is not None:
        _require(0 < crop <= 1, f"crop must be above 0 and at most 1, got {crop}")
    if step.resize is not None:
        _require(
            all(1 <= side <= MAX_RESIZE for side in step.resize),
            f"resize must be [height, width] of 1 to {MAX_RESIZE}, got {list(step.resize)}",
        )
    _require(math.isfinite(step.pad), f"pad must be finite, got {step.pad}")
    _require(
        step.layout != "hw" or step.wanted_color in (None, "gray"),
        f'layout = "hw" is for one channel, color must be gray, got {step.wanted_color}',
    )


def _check_sound(step: InputPreprocess) -> None:
    for name, value, bound in (
        ("sample_rate_hz", step.sample_rate_hz, MAX_RATE_HZ),
        ("frame", step.frame, MAX_FRAME),
        ("hop", step.hop, MAX_FRAME),
    ):
        _require(value is None or 1 <= value <= bound, f"{name} must be from 1 to {bound}, got {value}")
    _require(step.hop is None or step.frame is not None, f"hop needs frame, got hop {step.hop} alone")


def _check_kinds(step: InputPreprocess) -> None:
    """Steps for images, sound and tables exclude each other."""
    kinds = {
        "fields": bool(step.fields),
        'decode = "wav"': step.decode == "wav",
        "frame": step.frame is not None,
        'decode = "image"': step.decode == "image",
        "crop": step.crop is not None,
        "resize": step.resize is not None,
        "color": step.color is not None,
        "layout": step.layout != "hwc",
    }
    given = [name for name, there in kinds.items() if there]
    sound, images = {'decode = "wav"', "frame"}, {'decode = "image"', "crop", "resize", "color", "layout"}
    groups = [bool(set(given) & group) for group in ({"fields"}, sound, images)]
    _require(sum(groups) <= 1, f"steps for images, sound and tables exclude each other, got {', '.join(given)}")
