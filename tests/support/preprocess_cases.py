"""Raw values for preprocessing, settings to draw from, and TensorFlow's own resizing."""

import io
import json
import wave

import numpy as np
from hypothesis import strategies as st

from converter.artifact import InputPreprocess, TableField, TensorSpec


def picture(height, width, channels=3, seed=0):
    """uint8 noise with a coarse structure, so that a filter has something to smooth and something to keep."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, channels))
    whole = coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    return np.clip(whole + rng.integers(-40, 41, whole.shape), 0, 255).astype(np.uint8)


def encoded(pixels, kind="PNG", **options):
    """The bytes of an image file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.squeeze(pixels)).save(file, kind, **options)
    return file.getvalue()


def wav(samples, rate_hz=16_000, width=2):
    """The bytes of a WAV of integers [samples, channels]."""
    file = io.BytesIO()
    content = np.asarray(samples, "<i4").astype("<i4")
    with wave.open(file, "wb") as writer:
        writer.setnchannels(content.shape[1])
        writer.setsampwidth(width)
        writer.setframerate(rate_hz)
        raw = content.reshape(-1, 1).view(np.uint8)
        writer.writeframes((content.astype(np.uint8) if width == 1 else raw[:, :width]).tobytes())
    return file.getvalue()


def spec(*shape, dtype="float32", name="x"):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def as_toml(step, name="x"):
    """The settings as a person would write them in `preprocess.toml`."""
    import msgspec

    lines = [f"{key} = {_toml(value)}" for key, value in msgspec.to_builtins(step).items() if value is not None]
    return "\n".join([f"[inputs.{name}]", *lines, ""])


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items() if one is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(value)


sides = st.integers(1, 12)
constants = st.lists(st.floats(0.01, 10), max_size=1).map(tuple)
numeric = {"scale": st.floats(0.01, 10), "mean": constants, "std": constants}

image_steps = st.builds(
    InputPreprocess,
    decode=st.sampled_from([None, "image"]),
    crop=st.none() | st.floats(0.1, 1.0) | st.tuples(sides, sides, sides, sides),
    resize=st.none() | st.tuples(sides, sides),
    method=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos3", "area"]),
    antialias=st.booleans(),
    fit=st.sampled_from(["stretch", "crop", "pad"]),
    pad=st.sampled_from([0.0, 7.0]),
    color=st.sampled_from([None, "rgb", "bgr", "gray"]),
    array_color=st.sampled_from(["rgb", "bgr"]),
    layout=st.sampled_from(["hwc", "chw"]),
    **numeric,
)
audio_steps = st.builds(
    InputPreprocess,
    decode=st.sampled_from([None, "wav"]),
    sample_rate_hz=st.none() | st.integers(1, 96_000),
    frame=st.integers(1, 30),
    hop=st.none() | st.integers(1, 30),
    **numeric,
)
fields = st.builds(TableField, name=st.text("abc", min_size=1), default=st.none() | st.floats(-9, 9)) | st.builds(
    TableField,
    name=st.text("def", min_size=1),
    default=st.sampled_from([None, "low"]),
    categories=st.permutations(["low", "high"]).map(tuple),
)
table_steps = st.builds(
    InputPreprocess, fields=st.lists(fields, max_size=4, unique_by=lambda one: one.name).map(tuple), **numeric
)
steps = image_steps | audio_steps | table_steps | st.builds(InputPreprocess, **numeric)


def tensorflow_resized(cases, folder):
    """In a child: each case (file, height, width, method, antialias, how) by `tf.image`, into `folder`/INDEX.npy."""
    import tensorflow as tf

    for index, (file, height, width, method, antialias, how) in enumerate(cases):
        image = np.load(file)
        if how == "pad":
            made = tf.image.resize_with_pad(image, height, width, method, antialias)
        elif how == "central":
            made = tf.image.central_crop(image, 0.6)
        else:
            made = tf.image.resize(image, (height, width), method, antialias=antialias)
        np.save(folder / f"{index}.npy", made.numpy())
