import io
import json
import sys
import wave

import numpy as np
import pytest
import wake_word
from support.edge_models import scale_model
from support.picture_models import colours_detector
from support.speech import available, say
from support.tflite_files import shipped
from wake_word import Listener, WakeWord, from_wav, resampled

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime import InvalidConfig, Reply

MODEL = shipped("pymicro-wakeword", "alexa.json")

pytestmark = pytest.mark.skipif(MODEL is None, reason="pymicro-wakeword is not installed")

SIGNATURE = Signature(
    name="serving_default",
    inputs=(
        TensorSpec(
            name="audio", dtype="int8", shape=(1, 3, 40), quantization=Quantization(scales=(0.1,), zero_points=(-128,))
        ),
    ),
    outputs=(
        TensorSpec(
            name="probability",
            dtype="uint8",
            shape=(1, 1),
            quantization=Quantization(scales=(1 / 256,), zero_points=(0,)),
        ),
    ),
)


class Stream:
    """Answers as the test says, and notes its frames and resets."""

    def __init__(self, *probabilities):
        self.answers, self.frames, self.resets = list(probabilities), [], 0

    def predict(self, inputs):
        self.frames.append(inputs)
        stored = np.array([[round(self.answers.pop(0) * 256) if self.answers else 0]], np.uint8)
        return Reply(outputs={"probability": stored}, version=1, place="device:cpu", reason="local", latency_ms=0.1)

    def reset(self):
        self.resets += 1


def listener(stream, window=2):
    return Listener(stream, SIGNATURE, WakeWord("word", MODEL, 0.5, window))


def silence(frames):
    return np.zeros(320 + 160 * frames, np.int16)


def test_a_word_is_heard_once():
    """At the first average above the cutoff; then the stream begins anew, and its echo is not heard again."""
    stream = Stream(0, 0.9, 0.8, 0.9, 0.9)
    heard = list(listener(stream).hear(silence(60)))
    assert [(one.at_s, round(one.probability, 2)) for one in heard] == [(0.09, 0.85)]
    assert stream.resets == 1
    assert len(stream.frames) == 20


def test_a_short_peak_is_no_word():
    """One answer above the cutoff does not lift the average."""
    stream = Stream(0, 0.9, 0, 0, 0.9)
    ears = listener(stream)
    assert list(ears.hear(silence(30))) == []
    assert ears.best == pytest.approx(0.45, abs=0.01)


def test_features_go_in_as_the_model_stores_them():
    """Quantized, three frames at once, and frames that are left over wait."""
    stream = Stream()
    ears = listener(stream)
    assert list(ears.hear(silence(4))) == []
    assert [(one.shape, one.dtype, one.min(), one.max()) for one in stream.frames] == [
        ((1, 3, 40), np.int8, -128, -128)
    ]
    assert list(ears.hear(np.zeros(320, np.int16))) == []
    assert len(stream.frames) == 2


def test_clips_of_other_rates_are_brought_to_16_khz(tmp_path):
    """A tone stays the tone that it was; two channels are their mean."""
    time = np.arange(22_050) / 22_050
    tone = (8000 * np.sin(2 * np.pi * 440 * time)).astype("<i2")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as clip:
        clip.setparams((2, 2, 22_050, 0, "NONE", ""))
        clip.writeframes(np.stack([tone, tone], axis=1).tobytes())
    found = np.concatenate(list(from_wav(tmp_path / "tone.wav")))
    wanted = 8000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(found - wanted)[100:-100].max() < 50
    assert resampled(np.zeros(0), 8000).shape == (0,)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{}", "KeyError"), ("[", "no microWakeWord model's .json"), ('{"micro": 1}', "TypeError")],
)
def test_settings_that_are_none_are_named(tmp_path, text, says):
    """The .json must be a microWakeWord model's."""
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InvalidConfig, match=says):
        WakeWord.read(tmp_path / "a.json", None)
    with pytest.raises(InvalidConfig, match="--cutoff is needed"):
        WakeWord.read(tmp_path / "a.tflite", None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sliding_window_size": 0}, "sliding_window_size must be from 1 to 1000, got 0"),
        ({"sliding_window_size": -3}, "from 1 to 1000, got -3"),
        ({"sliding_window_size": 1e30}, "from 1 to 1000"),
        ({"probability_cutoff": float("nan")}, "probability_cutoff must be from 0 to 1, got nan"),
        ({"probability_cutoff": 2}, "probability_cutoff must be from 0 to 1, got 2"),
    ],
)
def test_settings_that_are_impossible_are_one_line(tmp_path, monkeypatch, capsys, changes, says):
    """On stderr, with the code for bad input."""
    micro = {"probability_cutoff": 0.9, "sliding_window_size": 5} | changes
    (tmp_path / "a.json").write_text(json.dumps({"wake_word": "x", "model": "x.tflite", "micro": micro}))
    assert says in refused(monkeypatch, capsys, tmp_path / "a.json", "-")


def refused(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["wake_word.py", *map(str, arguments)])
    assert wake_word.main() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_what_can_not_be_listened_to_is_one_line(tmp_path, monkeypatch, capsys):
    """A cutoff that is none, two sounds, a clip that is cut off, and one that is none."""
    for cutoff in ("nan", "-0.1", "1.5"):
        assert "--cutoff: must be from 0 to 1" in refused(monkeypatch, capsys, MODEL, "-", f"--cutoff={cutoff}")
    clip = tmp_path / "clip.wav"
    with wave.open(str(clip), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    assert "- or --wav: one sound" in refused(monkeypatch, capsys, MODEL, "-", "--wav", clip)
    clip.write_bytes(clip.read_bytes()[:-1])
    assert "clip.wav: cut off within a sample: 3199 bytes, of 2 a sample" in refused(
        monkeypatch, capsys, MODEL, "--wav", clip
    )
    clip.write_bytes(b"")
    assert "clip.wav: can't be read as WAV: it ends too early" in refused(monkeypatch, capsys, MODEL, "--wav", clip)
    assert "none.wav: can't be read as WAV: No such" in refused(
        monkeypatch, capsys, MODEL, "--wav", tmp_path / "none.wav"
    )


@pytest.mark.parametrize("model", [colours_detector, scale_model])
def test_other_models_are_named(tmp_path, monkeypatch, capsys, model):
    """With what they take and give, and what is expected; several outputs are no probability."""
    path = tmp_path / "other.tflite"
    path.write_bytes(model(*([2.0] if model is scale_model else [])))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    said = refused(monkeypatch, capsys, path, "-", "--cutoff", "0.5")
    assert "other.tflite: quantized features [1, N, 40] and one quantized probability are expected; it takes " in said


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["wake_word.py", *map(str, arguments)])
    assert wake_word.main() == 0
    return capsys.readouterr().out


def test_the_real_model_runs_as_a_stream_from_stdin(monkeypatch, capsys):
    """A second of noise is no word, whatever is piped in."""
    noise = np.random.default_rng(0).normal(scale=500, size=16_000).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(noise)))
    out = run(monkeypatch, capsys, MODEL, "-")
    assert out.startswith("heard 0 times; best 0.")


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="neither espeakng-loader nor espeak-ng is installed")
@pytest.mark.parametrize(("word", "text"), [("alexa", "Alexa"), ("okay_nabu", "okay nabu")])
def test_the_real_models_hear_their_words(tmp_path, monkeypatch, capsys, word, text):
    """Synthesised speech with the word is heard, once and where it is; other speech, and the other's word, is not."""
    model = MODEL.with_name(f"{word}.json")
    cutoff = json.loads(model.read_text())["micro"]["probability_cutoff"]
    out = run(monkeypatch, capsys, model, "--wav", say(text, tmp_path / "word.wav"))
    assert "heard 1 times" in out
    assert 1.0 < float(out.split()[0]) < 2.5
    others = "good morning everybody, the weather is nice today; " + ("okay nabu" if word == "alexa" else "Alexa")
    out = run(monkeypatch, capsys, model, "--wav", say(others, tmp_path / "others.wav"))
    assert out.startswith("heard 0 times")
    assert float(out.split("best ")[1].split(",")[0]) < cutoff / 2
