"""Preprocessing that travels inside the package, so that it can't differ from the version that it belongs to.

One implementation for converter, device and server. It turns raw values (a JPEG, a camera's 0..255, a WAV, a record)
into what the model was trained on. The order of the steps is fixed:

    images   decode, crop, resize, color      -> [height, width, channels]
    sound    decode, frame                    -> [samples] or [frames, frame]
    tables   fields                           -> [fields]
    all      scale, mean, std: (values * scale - mean) / std, in float32; then the input's dtype, then layout
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from converter.artifact import preprocess_audio, preprocess_images, preprocess_tables
from converter.artifact.errors import DecoderMissing, ManifestInvalid, RawInvalid
from converter.artifact.preprocess_checks import check_step
from converter.artifact.preprocess_identity import Kind, canonical, kind_of
from converter.artifact.preprocess_images import CHANNELS, Color, Fit, Window
from converter.artifact.preprocess_numbers import normalised, shortest, to_dtype
from converter.artifact.preprocess_raw import is_bytes, items_of
from converter.artifact.preprocess_resize import Method
from converter.artifact.preprocess_shapes import Axis, handed_over
from converter.artifact.preprocess_tables import TableField
from converter.artifact.signature import VARIABLE, TensorSpec

Layout = Literal["hwc", "chw", "hw"]

_Array = npt.NDArray[Any]


class InputPreprocess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How one input is made from raw values.

    Attributes:
        decode: `image`: raw values may be the bytes of a JPEG, PNG...; `wav`: of a WAV file, and arrays of integers are
            PCM. None: arrays only.
        crop: The middle fraction of each side (0.875), or [top, left, height, width] in the raw image's pixels.
        resize: [height, width].
        method: How it is resized, see `preprocess_resize`.
        antialias: Whether the filter is widened where the image gets smaller; `tf.image.resize`'s default is not.
        fit: `stretch` to the size, or keep the sides' ratio: `crop` what is too much, or `pad` what is missing.
        pad: The raw value that `pad` fills with.
        color: What the model wants: decoded images are rgb. None leaves arrays' channels as they are.
        array_color: What raw arrays hold: OpenCV's and most camera drivers' frames are `bgr`, Pillow's and picamera2's
            `BGR888` (whose name counts from the other end) are `rgb`, the default; `gray` arrays may lack the channels.
        sample_rate_hz: A WAV of another rate is refused; arrays are believed.
        frame: Samples a frame; None for the whole clip.
        hop: Samples from one frame to the next; None for `frame`.
        fields: The fields of a record in the vector's order; raw values are then dicts.
        scale: Factor on the values; 1/255 for 8-bit images that the model wants in 0..1.
        mean: Subtracted after scaling: empty for none, one value, or one for each index of the last axis.
        std: Divided by at the end: likewise.
        dtype: What the model's input has, for the record: another one is refused. None for whatever it has.
        layout: `hwc`; `chw` puts the channels first, at the very end; `hw` drops the one channel of gray images.
    """

    decode: Literal["image", "wav"] | None = None
    crop: float | Window | None = None
    resize: tuple[int, int] | None = None
    method: Method = "bilinear"
    antialias: bool = False
    fit: Fit = "stretch"
    pad: float = 0.0
    color: Color | None = None
    array_color: Color = "rgb"
    sample_rate_hz: int | None = None
    frame: int | None = None
    hop: int | None = None
    fields: tuple[TableField, ...] = ()
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dtype: str | None = None
    layout: Layout = "hwc"

    def __post_init__(self) -> None:
        check_step(self)

    @property
    def kind(self) -> Kind:
        """What the steps before the numeric ones are for; `values` where there are none."""
        return kind_of(self)

    @property
    def wanted_color(self) -> Color | None:
        """The colours that come out; None where they are whatever the array has."""
        return self.color or ("rgb" if self.decode == "image" else None)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of one sample as it comes out; none for `values`, which keep their shape."""
        kind = self.kind
        if kind == "table":
            return (Axis(key="fields", label="fields", size=len(self.fields)),)
        if kind == "audio":
            samples = Axis(key="decode", label="samples")
            framed = (Axis(key="frame", label="frames"), Axis(key="frame", label="frame", size=self.frame or VARIABLE))
            return (samples,) if self.frame is None else framed
        if kind == "values":
            return ()
        window = self.crop[2:] if isinstance(self.crop, tuple) else (VARIABLE, VARIABLE)
        key, (height, width) = ("resize", self.resize) if self.resize else ("crop", window)
        sides = (Axis(key=key, label="height", size=height), Axis(key=key, label="width", size=width))
        color = self.wanted_color
        channels = Axis(key="color", label="channels", size=CHANNELS[color] if color else VARIABLE)
        return {"hwc": (*sides, channels), "chw": (channels, *sides), "hw": sides}[self.layout]

    def apply(self, raw: Any, spec: TensorSpec) -> npt.NDArray[np.generic]:
        """Raw values -> an array of `spec`'s dtype.

        Without steps for images, sound or tables it has raw's shape, whatever that is. With them, raw is one sample, a
        batch or a list of samples (see `preprocess_images.images_of`, `preprocess_audio.clips_of`,
        `preprocess_tables.vectors_of`), and the result has spec's rank: with the batch axis, of size 1 for one sample.

        For integer inputs values are rounded to the nearest even and clipped to what the dtype holds; integers that
        nothing is done to never pass through floats.

        Raises:
            ManifestInvalid: mean or std has neither one value nor one for each index of the last axis, or the spec has
                another dtype than is said here.
            RawInvalid: raw is not what the steps take, or what they make of it does not fit the spec.
            DecoderMissing: it must be decoded, and Pillow is not installed.
        """
        self._check_dtype(spec)
        if self.kind == "values":
            return self._numbers(self._values(raw, spec), spec)
        return self._handed_over(self._numbers(self._samples(raw, spec), spec), spec)

    def pixels(self, raw: Any, spec: TensorSpec) -> npt.NDArray[np.uint8]:
        """As `apply`, but for scale, mean and std: what goes into an input into which these were folded.

        Values are rounded to the nearest even and clipped to 0..255; uint8 ones without steps before are raw itself.

        Raises:
            ManifestInvalid: the steps can't be folded, see `unfoldable`.
            RawInvalid, DecoderMissing: as `apply`.
        """
        if reason := self.unfoldable:
            raise ManifestInvalid(f"preprocessing of {spec.name!r} can't be folded into uint8: {reason}")
        image = self.kind == "image"
        values = to_dtype(self._samples(raw, spec) if image else self._values(raw, spec), np.dtype(np.uint8))
        made: npt.NDArray[np.uint8] = (self._handed_over(values, spec) if image else values).astype(
            np.uint8, copy=False
        )
        return made

    def from_pixels(self, pixels: npt.NDArray[np.uint8], spec: TensorSpec) -> npt.NDArray[np.generic]:
        """What `pixels` made, of any shape -> what `apply` would have made: scale, mean, std and the dtype.

        Raises:
            ManifestInvalid: the steps can't be folded, see `unfoldable`.
        """
        if reason := self.unfoldable:
            raise ManifestInvalid(f"preprocessing of {spec.name!r} can't be folded into uint8: {reason}")
        mean, std = shortest(self.mean, 0.0), shortest(self.std, 1.0)
        return to_dtype(normalised(pixels.astype(np.float32), self.scale, mean, std), spec.numpy_dtype)

    @property
    def unfoldable(self) -> str:
        """Why scale, mean and std can't be an input's quantization, so that stored uint8 are pixels; "" if they can."""
        if self.kind in ("audio", "table"):
            return f"it is for {'sound' if self.kind == 'audio' else 'tables'}, not for pixels of 0 to 255"
        if self.dtype is not None and not self.dtype.startswith("float"):
            return f"the model's input is {self.dtype}, which is not quantized"
        for name, constants in (("mean", shortest(self.mean, 0.0)), ("std", shortest(self.std, 1.0))):
            if len(constants) > 1:
                return f"{name} differs by channel: {list(constants)}; a tensor's quantization has one scale"
        low, high = self._range()
        if low >= high:
            return f"scale is below 0: {self.scale}"
        if not low <= 0.0 <= high:
            return f"pixels become {low:g} to {high:g}, and the range of a quantized tensor holds 0"
        return ""

    def folds_into_uint8(self) -> tuple[float, float] | None:
        """The real values of the pixels 0 and 255: the range of a quantized uint8 input whose stored values are pixels.

        A quantization's zero point is an integer. Where -low * 255 / (high - low) is none, as for -1..1, rounding it
        shifts all values by up to half a step of (high - low) / 255. None where `unfoldable` says why.
        """
        return None if self.unfoldable else self._range()

    @property
    def canonical(self) -> tuple[Any, ...]:
        """What is done, written the same way wherever the same is done.

        Scale, mean and std; after them, where there is more, pairs of a setting's name and its value in their names'
        order, without those that have no effect.
        """
        return canonical(self)

    def _values(self, raw: Any, spec: TensorSpec) -> _Array:
        if spec.dtype != "string" and any(is_bytes(one) for one in items_of(raw)[0]):
            raise RawInvalid(f"preprocessing of {spec.name!r}: it takes arrays, got bytes; decode is not set")
        values: _Array = np.asarray(raw)
        # As a number None would be NaN.
        if values.dtype.kind == "O" and any(one is None for one in values.flat):
            raise RawInvalid(f"preprocessing of {spec.name!r}: values are needed, got None")
        return values

    def _samples(self, raw: Any, spec: TensorSpec) -> _Array:
        """[rows, ...]: everything before the numeric steps, channels last.

        Raises:
            RawInvalid: see `apply`.
            DecoderMissing: see `apply`.
        """
        try:
            if self.fields:
                return preprocess_tables.vectors_of(raw, self.fields)
            if self.kind == "audio":
                clips = preprocess_audio.clips_of(raw, self.sample_rate_hz, decodes=self.decode == "wav")
                return _stacked([preprocess_audio.framed(clip, self.frame, self.hop) for clip in clips])
            images, color = preprocess_images.images_of(raw, self.array_color, decodes=self.decode == "image")
            return _stacked([self._image(image, color) for image in images])
        except (RawInvalid, DecoderMissing) as error:
            raise type(error)(f"preprocessing of {spec.name!r}: {error}") from error

    def _image(self, image: _Array, color: Color) -> _Array:
        made = preprocess_images.geometry(
            image,
            window=self.crop,
            size=self.resize,
            method=self.method,
            antialias=self.antialias,
            fit=self.fit,
            pad=self.pad,
        )
        # Colours last, where there are the fewest pixels: they and the filters are linear, so it comes to the same.
        return preprocess_images.recolored(made, color, self.wanted_color or color)

    def _numbers(self, values: _Array, spec: TensorSpec) -> npt.NDArray[np.generic]:
        if self.scale == 1.0 and not self.mean and not self.std:
            return to_dtype(values, spec.numpy_dtype)
        reals: npt.NDArray[np.float32] = np.asarray(values, dtype=np.float32)
        channels = reals.shape[-1] if reals.ndim else 1
        for name, constants in (("mean", self.mean), ("std", self.std)):
            if len(constants) not in (0, 1, channels):
                raise ManifestInvalid(
                    f"preprocessing of {spec.name!r}: {name} has {len(constants)} values, the last axis has {channels}"
                )
        return to_dtype(normalised(reals, self.scale, self.mean, self.std), spec.numpy_dtype)

    def _handed_over(self, samples: _Array, spec: TensorSpec) -> _Array:
        try:
            if self.layout == "chw" and self.kind == "image":
                samples = np.ascontiguousarray(samples.transpose(0, 3, 1, 2))
            elif self.layout == "hw" and self.kind == "image":
                if samples.shape[-1] != 1:
                    raise RawInvalid(f'layout = "hw" is for one channel, the image has {samples.shape[-1]}')  # noqa: TRY301
                samples = samples[..., 0]
            return handed_over(samples, spec, mono=self.kind == "audio")
        except RawInvalid as error:
            raise RawInvalid(f"preprocessing of {spec.name!r}: {error}") from error

    def _check_dtype(self, spec: TensorSpec) -> None:
        if self.dtype not in (None, spec.dtype):
            raise ManifestInvalid(f"preprocessing of {spec.name!r}: dtype is {self.dtype}, the input is {spec}")

    def _range(self) -> tuple[float, float]:
        mean, std = (*shortest(self.mean, 0.0), 0.0)[0], (*shortest(self.std, 1.0), 1.0)[0]
        return -mean / std + 0.0, (255.0 * self.scale - mean) / std


def _stacked(samples: list[_Array]) -> _Array:
    shapes = sorted({sample.shape for sample in samples})
    if len(shapes) > 1:
        raise RawInvalid(f"samples of one call become different shapes: {list(shapes[0])} and {list(shapes[1])}")
    return samples[0][None] if len(samples) == 1 else np.stack(samples)


class Preprocess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Preprocessing of a whole package: by input name; an input that is not named takes its values as they are."""

    inputs: dict[str, InputPreprocess] = {}

    @property
    def fingerprint(self) -> str:
        """`sha256:` and the digest of the canonical JSON form: equal where the same is done to the same inputs."""
        done = {name: one.canonical for name, one in self.inputs.items()}
        idle = _IDENTITY.canonical
        canonical = msgspec.json.encode({name: one for name, one in done.items() if one != idle}, order="sorted")
        return "sha256:" + hashlib.sha256(canonical).hexdigest()

    def input(self, name: str) -> InputPreprocess:
        """That of the input `name`; one that does nothing where it is not named."""
        return self.inputs.get(name, _IDENTITY)

    def apply(self, name: str, raw: Any, spec: TensorSpec) -> npt.NDArray[np.generic]:
        """Raw values for the input `name` -> the array that the model takes; see `InputPreprocess.apply`."""
        return self.input(name).apply(raw, spec)

    def pixels(self, name: str, raw: Any, spec: TensorSpec) -> npt.NDArray[np.uint8]:
        """Raw values -> what a variant takes that has this input folded; see `InputPreprocess.pixels`."""
        return self.input(name).pixels(raw, spec)

    def from_pixels(self, name: str, pixels: npt.NDArray[np.uint8], spec: TensorSpec) -> npt.NDArray[np.generic]:
        """What `pixels` made -> what `apply` would have made; see `InputPreprocess.from_pixels`."""
        return self.input(name).from_pixels(pixels, spec)


_IDENTITY = InputPreprocess()
