"""Listens for a wake word: a model that keeps its state from frame to frame, as a stream.

    arecord -f S16_LE -r 16000 -c 1 -t raw | python examples/wake_word.py okay_nabu.json -
    python examples/wake_word.py okay_nabu.json                      the microphone, with `pip install sounddevice`
    python examples/wake_word.py okay_nabu.json --wav clip.wav
    python examples/wake_word.py alexa.tflite --wav clip.wav --cutoff 0.9

The models are microWakeWord's, such as those in the `models` folder of PyPI's pymicro-wakeword: a .tflite file, int8
features [1, 3, 40] -> uint8 probability [1, 1], and beside it a .json with the cutoff at which it is believed.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import time
import wave
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from audio_frontend import CHANNELS, SAMPLE_RATE, STEP, Frontend

from converter.artifact import Signature, TensorSpec
from edge_runtime import Reply, Runtime
from edge_runtime.errors import EdgeRuntimeError, InvalidConfig, InvalidInput

Samples = npt.NDArray[np.int16]

_BLOCK = 3 * STEP
"""Samples that are read at once: as many as the models take, 30 ms."""

_QUEUED_BLOCKS = 100
"""What a microphone may be ahead, 3 s; older sound than that is dropped and counted."""

_MAX_WINDOW = 1_000
"""Answers that are averaged: half a minute, and no word takes so long."""

_QUIET_S = 1.0
"""After a word: its end would be heard as the word again."""


@dataclass(frozen=True)
class WakeWord:
    """What a microWakeWord model is to be used with.

    Attributes:
        word: What is said.
        model: The file.
        cutoff: The probability above which it was said, averaged over `window` answers.
        window: Answers of 30 ms each.
    """

    word: str
    model: Path
    cutoff: float
    window: int

    @classmethod
    def read(cls, path: Path, cutoff: float | None) -> WakeWord:
        """From the .json beside a model, or a bare .tflite with a cutoff.

        Raises:
            InvalidConfig: it is no such file, or what it says is impossible.
        """
        if cutoff is not None and not 0 <= cutoff <= 1:
            raise InvalidConfig(f"--cutoff: must be from 0 to 1, got {cutoff:g}")
        if path.suffix != ".json":
            if cutoff is None:
                raise InvalidConfig(f"{path}: --cutoff is needed, from the .json that came with the model")
            return cls(path.stem, path, cutoff, 5)
        try:
            said = json.loads(path.read_text("utf-8"))
            micro = said["micro"]
            own = float(micro["probability_cutoff"]) if cutoff is None else cutoff
            window = int(micro["sliding_window_size"])
            found = cls(str(said["wake_word"]), path.parent / said["model"], own, window)
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidConfig(f"{path}: no microWakeWord model's .json: {error!r}") from error
        if not 0 <= own <= 1:
            raise InvalidConfig(f"{path}: probability_cutoff must be from 0 to 1, got {own:g}")
        if not 1 <= window <= _MAX_WINDOW:
            raise InvalidConfig(f"{path}: sliding_window_size must be from 1 to {_MAX_WINDOW}, got {window}")
        return found


@dataclass(frozen=True)
class Heard:
    """The word was said.

    Attributes:
        at_s: Where in the sound, in seconds from its start.
        probability: The averaged one.
    """

    at_s: float
    probability: float


class Frames(Protocol):
    """A stream: `edge_runtime.Model.stream()`."""

    def predict(self, inputs: Any) -> Reply:
        """Answers the next frame."""
        ...

    def reset(self) -> None:
        """Forgets what was heard."""
        ...


class Listener:
    """Hears samples, makes features of them, and asks the stream. One thread at a time.

    Attributes:
        best: The highest averaged probability so far.
        slowest_ms: The longest that an answer to 30 ms of sound took.
    """

    def __init__(self, stream: Frames, signature: Signature, settings: WakeWord) -> None:
        """Takes the model's stream and its signature, which says how many frames it takes and how they are stored.

        Raises:
            InvalidInput: it is no microWakeWord model's.
        """
        if not _is_wake_word(signature):
            raise InvalidInput(
                f"{settings.model}: quantized features [1, N, {CHANNELS}] and one quantized probability are expected; "
                f"it takes {_described(signature.inputs)} and gives {_described(signature.outputs)}"
            )
        (self._input,), (self._output,) = signature.inputs, signature.outputs
        self._stride = self._input.shape[1]
        self._stream = stream
        self._settings = settings
        self._frontend = Frontend()
        self._features = np.zeros((0, CHANNELS), np.float32)
        self._recent: deque[float] = deque(maxlen=settings.window)
        self._frames = 0
        self._deaf_until = 0
        self.best = 0.0
        self.slowest_ms = 0.0

    def hear(self, samples: Samples) -> Iterator[Heard]:
        """Takes the next samples of the sound, 16 kHz; gives the words that end in them."""
        self._features = np.concatenate([self._features, self._frontend(samples)])
        while len(self._features) >= self._stride:
            frame, self._features = self._features[: self._stride], self._features[self._stride :]
            self._frames += self._stride
            self._recent.append(self._probability(frame))
            average = sum(self._recent) / self._settings.window
            self.best = max(self.best, average)
            if average > self._settings.cutoff and self._frames >= self._deaf_until:
                at_s = self._frames * STEP / SAMPLE_RATE
                self._deaf_until = self._frames + round(_QUIET_S * SAMPLE_RATE / STEP)
                self._recent.clear()
                self._stream.reset()
                yield Heard(at_s, average)

    def _probability(self, frame: npt.NDArray[np.float32]) -> float:
        assert self._input.quantization is not None
        assert self._output.quantization is not None
        stored = self._input.quantization.quantize(frame[np.newaxis], self._input.numpy_dtype)
        start_s = time.monotonic()
        answer = self._stream.predict(stored).outputs[self._output.name]
        self.slowest_ms = max(self.slowest_ms, (time.monotonic() - start_s) * 1e3)
        return float(self._output.quantization.dequantize(answer).reshape(-1)[0])


def _is_wake_word(signature: Signature) -> bool:
    if len(signature.inputs) != 1 or len(signature.outputs) != 1:
        return False
    (features,), (probability,) = signature.inputs, signature.outputs
    shaped = len(features.shape) == 3 and features.shape[::2] == (1, CHANNELS) and features.shape[1] >= 1
    return shaped and set(probability.shape) <= {1} and None not in (features.quantization, probability.quantization)


def _described(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec}{'' if spec.quantization else ' (not quantized)'}" for spec in specs)


def from_wav(path: Path) -> Iterator[Samples]:
    """The clip in blocks: 16-bit, the channels' mean, brought to 16 kHz.

    Raises:
        InvalidInput: it can't be read, or is none.
    """
    try:
        with wave.open(str(path), "rb") as clip:
            if clip.getsampwidth() != 2:
                raise InvalidInput(f"{path}: 16-bit samples are needed, it has {8 * clip.getsampwidth()}-bit")
            raw, channels, rate = clip.readframes(clip.getnframes()), clip.getnchannels(), clip.getframerate()
    except (OSError, EOFError, wave.Error) as error:
        said = getattr(error, "strerror", None) or str(error) or "it ends too early"
        raise InvalidInput(f"{path}: can't be read as WAV: {said}") from error
    if rate < 1:
        raise InvalidInput(f"{path}: can't be read as WAV: {rate} samples a second")
    if len(raw) % (2 * channels):
        raise InvalidInput(f"{path}: cut off within a sample: {len(raw)} bytes, of {2 * channels} a sample")
    samples = resampled(np.frombuffer(raw, "<i2").reshape(-1, channels).mean(axis=1), rate)
    for start in range(0, len(samples), _BLOCK):
        yield samples[start : start + _BLOCK]


def resampled(samples: npt.NDArray[np.float64], rate: int) -> Samples:
    """A whole clip at 16 kHz: what is above half the lower rate is cut off in the spectrum."""
    if rate != SAMPLE_RATE and len(samples):
        count = round(len(samples) * SAMPLE_RATE / rate)
        spectrum = np.fft.rfft(samples)[: count // 2 + 1]
        samples = np.fft.irfft(spectrum, count) * (count / len(samples))
    return np.clip(np.rint(samples), -(2**15), 2**15 - 1).astype(np.int16)


def from_stdin() -> Iterator[Samples]:
    """Raw 16-bit samples at 16 kHz, as `arecord -t raw` gives them."""
    while block := sys.stdin.buffer.read(2 * _BLOCK):
        yield np.frombuffer(block[: len(block) // 2 * 2], "<i2")


def from_microphone() -> Iterator[Samples]:
    """The default microphone. The driver's thread only puts blocks into a bounded queue."""
    try:
        import sounddevice  # noqa: PLC0415  only for who uses it
    except (ImportError, OSError) as error:
        raise SystemExit(f"no microphone: {error}; pip install sounddevice, or pipe `arecord -t raw` into -") from error

    blocks: queue.Queue[Samples] = queue.Queue(_QUEUED_BLOCKS)
    dropped = 0

    def take(block: Any, _frames: int, _time: Any, _status: Any) -> None:
        nonlocal dropped
        try:
            blocks.put_nowait(block[:, 0].copy())
        except queue.Full:
            dropped += 1

    with sounddevice.InputStream(SAMPLE_RATE, _BLOCK, channels=1, dtype="int16", callback=take):
        said = 0
        while True:
            yield blocks.get()
            if dropped != said:
                said = dropped
                print(
                    f"the microphone is ahead: {said * _BLOCK / SAMPLE_RATE:.2f} s of sound were dropped",
                    file=sys.stderr,
                )


def sound_of(arguments: argparse.Namespace) -> Iterator[Samples]:
    """The sound that was asked for.

    Raises:
        InvalidConfig: two were.
    """
    if arguments.wav is None:
        return from_stdin() if arguments.sound == "-" else from_microphone()
    if arguments.sound == "-":
        raise InvalidConfig("- or --wav: one sound can be listened to")
    return from_wav(arguments.wav)


def listen(settings: WakeWord, sound: Iterator[Samples]) -> tuple[int, float]:
    """Prints each word that is heard, until the sound ends; how often, and the highest probability."""
    count = 0
    with Runtime.open(settings.model) as runtime:
        model = runtime.model()
        with model.stream() as stream:
            listener = Listener(stream, model.signature, settings)
            for block in sound:
                for heard in listener.hear(block):
                    count += 1
                    print(f"{heard.at_s:7.2f} s  {settings.word}  {heard.probability:.3f}", flush=True)
    best = f"best {listener.best:.3f}, cutoff {settings.cutoff:.2f}"
    print(f"heard {count} times; {best}; slowest answer {listener.slowest_ms:.2f} ms")
    return count, listener.best


def main() -> int:
    """The command above: 0 when the sound has ended, 1 where the model can't run, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the model's .json, or its .tflite with --cutoff")
    parser.add_argument("sound", nargs="?", choices=["-"], help="-: raw 16-bit samples at 16 kHz from stdin")
    parser.add_argument("--wav", type=Path, help="a clip instead of the microphone")
    parser.add_argument("--cutoff", type=float, help="instead of the .json's")
    arguments = parser.parse_args()
    try:
        listen(WakeWord.read(arguments.model, arguments.cutoff), sound_of(arguments))
    except (InvalidConfig, InvalidInput) as error:
        print(error, file=sys.stderr)
        return 2
    except EdgeRuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
