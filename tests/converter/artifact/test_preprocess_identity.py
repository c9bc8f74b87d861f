import tomllib

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.preprocess_cases import as_toml, audio_steps, encoded, image_steps, picture, spec, steps, wav

from converter.artifact import InputPreprocess, ManifestInvalid, Preprocess, RawInvalid, TableField


def fingerprint(step):
    return Preprocess(inputs={"x": step}).fingerprint


@pytest.mark.parametrize(
    ("inputs", "digest"),
    [
        ({}, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        (
            {"image": InputPreprocess(scale=0.0625)},
            "5e264360f164ae27ffea334abe4921505ebfdff5de9bc0a09cddc879a3c304f5",
        ),
        (
            {
                "b": InputPreprocess(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
                "a": InputPreprocess(mean=(0.5, 0.5)),
            },
            "2136a5f6e611f4a10d7de836a7cb4a9deef59507f3f855a9c3eff768a9d2f735",
        ),
    ],
)
def test_numeric_steps_keep_their_fingerprints(inputs, digest):
    """Packages of format 1 have the fingerprints that release 0.1 gave them."""
    assert Preprocess(inputs=inputs).fingerprint == f"sha256:{digest}"


@given(steps)
def test_writing_and_reading_keeps_the_fingerprint(step):
    """Through the manifest's JSON and through TOML."""
    whole = Preprocess(inputs={"x": step})
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Preprocess) == whole
    read = msgspec.convert(tomllib.loads(as_toml(step)), Preprocess)
    assert read.fingerprint == whole.fingerprint


@given(steps, steps)
def test_fingerprints_are_equal_where_the_steps_are(one, other):
    """Equal canonical forms, equal fingerprints; different ones, different ones."""
    assert (fingerprint(one) == fingerprint(other)) == (one.canonical == other.canonical)


IMAGE = InputPreprocess(decode="image", resize=(8, 8))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (InputPreprocess(), InputPreprocess(method="area", antialias=True, fit="pad", pad=3.0)),
        (InputPreprocess(), InputPreprocess(crop=1.0, layout="hwc", dtype="float32", sample_rate_hz=8000)),
        (InputPreprocess(), InputPreprocess(color="bgr", array_color="bgr")),
        (InputPreprocess(resize=(4, 4)), InputPreprocess(resize=(4, 4), pad=9.0)),
        (InputPreprocess(resize=(4, 4)), InputPreprocess(resize=(4, 4), color="bgr", array_color="bgr")),
        (InputPreprocess(resize=(4, 4), method="area"), InputPreprocess(resize=(4, 4), method="area", antialias=True)),
        (InputPreprocess(decode="image"), InputPreprocess(decode="image", color="rgb")),
        (InputPreprocess(frame=4), InputPreprocess(frame=4, hop=4)),
        (InputPreprocess(frame=4), InputPreprocess(frame=4, sample_rate_hz=16_000)),
        (
            InputPreprocess(fields=(TableField(name="a", default=1),)),
            InputPreprocess(fields=(TableField(name="a", default=1.0),)),
        ),
    ],
)
def test_settings_without_effect_do_not_count(one, other):
    """What is said of a step that is not taken, or says what is so anyway, leaves the fingerprint."""
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "change",
    [
        {"resize": (8, 9)},
        {"method": "area"},
        {"antialias": True},
        {"fit": "crop"},
        {"fit": "pad"},
        {"crop": 0.5},
        {"crop": (0, 0, 8, 8)},
        {"color": "bgr"},
        {"color": "gray"},
        {"array_color": "bgr"},
        {"layout": "chw"},
        {"scale": 2.0},
        {"mean": (1.0,)},
        {"std": (2.0,)},
        {"decode": None},
    ],
)
def test_each_setting_counts(change):
    """Each one that changes what is done changes the fingerprint."""
    assert fingerprint(msgspec.structs.replace(IMAGE, **change)) != fingerprint(IMAGE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (InputPreprocess(decode="wav"), InputPreprocess(decode="wav", sample_rate_hz=8000)),
        (InputPreprocess(frame=4), InputPreprocess(frame=5)),
        (InputPreprocess(frame=4), InputPreprocess(frame=4, hop=2)),
        (
            InputPreprocess(fields=(TableField(name="a"), TableField(name="b"))),
            InputPreprocess(fields=(TableField(name="b"), TableField(name="a"))),
        ),
        (
            InputPreprocess(fields=(TableField(name="a"),)),
            InputPreprocess(fields=(TableField(name="a", default=0.0),)),
        ),
    ],
)
def test_sound_and_table_settings_count(one, other):
    """Rate, frames, the order of fields and their defaults are part of what is done."""
    assert fingerprint(one) != fingerprint(other)


def outcome(step, raw, wanted):
    """What comes out; that nothing does is an outcome too."""
    try:
        made = step.apply(raw, wanted)
    except (ManifestInvalid, RawInvalid):
        return None
    return made.shape, made.tobytes()


PICTURE = picture(13, 17)
RAW_IMAGES = (PICTURE, encoded(PICTURE), [PICTURE, PICTURE])


@given(image_steps, image_steps, st.sampled_from(range(3)), st.booleans())
def test_one_fingerprint_one_result_for_images(one, other, which, same_numbers):
    """Steps with one fingerprint make the same of an image, bytes or arrays; other results, other fingerprints."""
    if same_numbers:
        other = msgspec.structs.replace(other, scale=one.scale, mean=one.mean, std=one.std)
    wanted = spec(-1, -1, -1, -1)
    if outcome(one, RAW_IMAGES[which], wanted) != outcome(other, RAW_IMAGES[which], wanted):
        assert fingerprint(one) != fingerprint(other)


@given(image_steps, st.sampled_from(["method", "antialias", "fit", "pad", "color", "array_color"]), st.data())
def test_one_setting_changed_in_effect_changes_the_fingerprint(step, name, data):
    """Whenever one changed setting shows in the result, the fingerprint shows it."""
    other = msgspec.structs.replace(step, **{name: getattr(data.draw(image_steps), name)})
    assume(other != step)
    for raw in RAW_IMAGES:
        if outcome(step, raw, spec(-1, -1, -1, -1)) != outcome(other, raw, spec(-1, -1, -1, -1)):
            assert fingerprint(step) != fingerprint(other)


@given(audio_steps, audio_steps)
def test_one_fingerprint_one_result_for_sound(one, other):
    """The same for clips."""
    raw = wav(np.arange(100)[:, None])
    if outcome(one, raw, spec(-1, -1, -1)) != outcome(other, raw, spec(-1, -1, -1)):
        assert fingerprint(one) != fingerprint(other)
