import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.preprocess_cases import spec, wav

from converter.artifact import InputPreprocess, ManifestInvalid, RawInvalid
from converter.artifact.preprocess_audio import decode_wav

RAMP = np.array([[-32768], [-16384], [0], [16384]])


def apply(raw, wanted, **settings):
    return InputPreprocess(**{"decode": "wav", **settings}).apply(raw, wanted)


@pytest.mark.parametrize(("width", "samples"), [(1, [0, 64, 128, 192]), (2, RAMP), (3, RAMP * 256), (4, RAMP * 65536)])
def test_integers_of_any_width_become_minus_one_to_one(width, samples):
    """8-bit samples are unsigned, the others signed; all by the full range."""
    found = apply(wav(np.reshape(samples, (4, 1)), width=width), spec(-1, 4))
    np.testing.assert_array_equal(found, np.array([[-1.0, -0.5, 0.0, 0.5]], np.float32))


def test_channels_are_averaged():
    """Stereo becomes mono."""
    found = apply(wav([[16384, 0], [0, 0]]), spec(-1, -1))
    assert found.tolist() == [[0.25, 0.0]]


def test_arrays_of_integers_are_pcm():
    """A microphone's buffer gives what the WAV of it gives; floats stay as they are, and so do integers without wav."""
    buffer = RAMP[:, 0].astype(np.int16)
    np.testing.assert_array_equal(apply(buffer, spec(-1, 4)), apply(wav(RAMP), spec(-1, 4)))
    assert apply(np.array([0.5, 2.0]), spec(-1, 2)).tolist() == [[0.5, 2.0]]
    assert InputPreprocess(frame=2).apply(buffer[2:], spec(-1, 1, 2)).tolist() == [[[0.0, 16384.0]]]


def test_frames_overlap_by_hop():
    """[samples] -> [frames, frame]; what is left over at the end is dropped."""
    found = apply(np.arange(8, dtype=np.float32), spec(-1, -1, 4), frame=4, hop=3)
    assert found.tolist() == [[[0, 1, 2, 3], [3, 4, 5, 6]]]
    assert apply(np.arange(7.0), spec(-1, 2, 3), frame=3).tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_batches_lists_and_channels_of_the_model():
    """Clips are joined along the batch axis; a model that wants a last axis of one channel gets it."""
    clips = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert apply(clips, spec(-1, 4)).shape == (2, 4)
    assert apply([clips[0], wav(RAMP)], spec(-1, 4, 1)).shape == (2, 4, 1)
    assert apply(clips[0], spec(4)).shape == (4,)


def test_the_numeric_steps_follow():
    """scale, mean and std see the samples."""
    assert apply(wav(RAMP), spec(-1, 4), scale=2.0, mean=(1.0,)).tolist() == [[-3.0, -2.0, -1.0, 0.0]]


@pytest.mark.parametrize(
    ("raw", "settings", "says"),
    [
        (wav(RAMP, rate_hz=44_100), {"sample_rate_hz": 16_000}, "44100 samples a second, the model takes 16000"),
        (wav(RAMP)[:-3], {}, "5 bytes of samples, its header says 8"),
        (wav(RAMP)[:20], {}, "are no WAV of integers"),
        (b"", {}, "0 bytes are no WAV"),
        (b"RIFFnonsense", {}, "are no WAV"),
        (wav(np.zeros((0, 1))), {}, "0 bytes of samples"),
        (wav(RAMP), {"frame": 5}, "the clip has 4 samples, a frame 5"),
        ("clip.wav", {}, "got a str"),
        (np.zeros((2, 2, 2)), {}, r"a clip has the axis \[samples\]"),
        ([wav(RAMP), np.zeros((1, 4))], {}, "sample 1: a clip has"),
        (wav(RAMP), {"decode": None, "frame": 2}, "a clip is an array of numbers"),
        (np.zeros(3), {}, r"1 of the shape \[3\] came out, the input is float32\[-1, 4\]"),
    ],
)
def test_what_is_no_clip_for_the_model_is_refused(raw, settings, says):
    """Other rates, damaged files, clips too short, what is no sound: one line with the input's name."""
    with pytest.raises(RawInvalid, match=f"preprocessing of 'x': .*{says}"):
        apply(raw, spec(-1, 4), **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sample_rate_hz": 0}, "sample_rate_hz must be from 1 to 768000, got 0"),
        ({"frame": 0}, "frame must be from 1"),
        ({"frame": 4, "hop": -1}, "hop must be from 1"),
        ({"hop": 4}, "hop needs frame, got hop 4 alone"),
        ({"decode": "wav", "color": "rgb"}, 'exclude each other, got decode = "wav", color'),
    ],
)
def test_settings_out_of_their_bounds_are_refused(settings, says):
    """Each by name, bound and value."""
    with pytest.raises(ManifestInvalid, match=says):
        InputPreprocess(**settings)


@given(st.binary(max_size=8), st.integers(0, 52), st.booleans())
def test_damage_is_a_named_error(noise, at, cut):
    """Whatever a header claims: samples, or one line that says what is wrong."""
    data = wav(RAMP)
    damaged = data[:at] + noise + (b"" if cut else data[at + len(noise) :])
    with contextlib.suppress(RawInvalid):
        assert decode_wav(damaged, None).dtype == np.float32
