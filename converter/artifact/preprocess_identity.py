"""When two preprocessings are the same: what is done, without how it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from converter.artifact.preprocess_numbers import shortest

if TYPE_CHECKING:
    from converter.artifact.preprocess import InputPreprocess

Kind = Literal["values", "image", "audio", "table"]


def kind_of(step: InputPreprocess) -> Kind:
    """What the steps before the numeric ones are for; `values` where there are none."""
    if step.fields:
        return "table"
    if step.decode == "wav" or step.frame is not None:
        return "audio"
    return "image" if step.decode == "image" or _image_steps(step) else "values"


def canonical(step: InputPreprocess) -> tuple[Any, ...]:
    """See `InputPreprocess.canonical`."""
    numbers = float(step.scale), shortest(step.mean, 0.0), shortest(step.std, 1.0)
    more = _EFFECTIVE[kind_of(step)](step)
    return (*numbers, tuple(sorted(more.items()))) if more else numbers


def _table_steps(step: InputPreprocess) -> dict[str, Any]:
    return {"fields": tuple((one.name, _plain(one.default), one.categories) for one in step.fields)}


def _plain(default: float | str | None) -> float | str | None:
    return default if default is None or isinstance(default, str) else float(default) + 0.0


def _audio_steps(step: InputPreprocess) -> dict[str, Any]:
    found = {
        "decode": step.decode,
        "sample_rate_hz": step.sample_rate_hz if step.decode == "wav" else None,
        "frame": step.frame,
        "hop": None if step.hop == step.frame else step.hop,
    }
    return {name: value for name, value in found.items() if value is not None}


def _image_steps(step: InputPreprocess) -> dict[str, Any]:
    found: dict[str, Any] = {"decode": step.decode} if step.decode == "image" else {}
    if step.crop is not None and step.crop != 1.0:
        found["crop"] = step.crop
    if step.layout != "hwc":
        found["layout"] = step.layout
    found |= _resize_steps(step)
    return found | _color_steps(step, alone=not found)


def _resize_steps(step: InputPreprocess) -> dict[str, Any]:
    if step.resize is None:
        return {}
    found: dict[str, Any] = {"resize": step.resize, "method": step.method}
    if step.antialias and step.method not in ("nearest", "area"):
        found["antialias"] = True
    if step.fit != "stretch":
        found["fit"] = step.fit
    if step.fit == "pad":
        found["pad"] = float(step.pad) + 0.0
    return found


def _color_steps(step: InputPreprocess, *, alone: bool) -> dict[str, Any]:
    color, array_color = step.wanted_color, step.array_color
    if step.decode == "image":
        # Decoded images are rgb whatever arrays are; both ways can be taken.
        found = {"color": color, "array_color": array_color}
        return {name: value for name, value in found.items() if value != "rgb"}
    if color is not None and color != array_color:
        return {"color": color, "array_color": array_color}
    # Where arrays are taken for images at all, it says that their last axis may be missing.
    return {"array_color": "gray"} if array_color == "gray" and not alone else {}


_EFFECTIVE = {"values": lambda _: {}, "table": _table_steps, "audio": _audio_steps, "image": _image_steps}
