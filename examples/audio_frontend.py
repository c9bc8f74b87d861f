"""The features that microWakeWord's models hear: 40 log-mel channels, noise reduced and gain controlled, each 10 ms.

The models were trained on the features of TensorFlow Lite Micro's audio frontend, which computes in fixed point. This
is the same chain in numpy, from its published parameters: window of 30 ms, FFT of 512, mel filterbank, square root,
spectral noise reduction, per-channel amplitude normalization (PCAN) and logarithm (Wang et al., Trainable Frontend for
Robust and Far-Field Keyword Spotting, 2017). Fixed-point steps are kept where they shape the result. The FFT is of
floating point: channels that are silent beside loud ones lack the rounding noise that they have there (3 in 100
features of synthesised speech differ by more than 0.2, the models' probabilities by up to 0.03).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
STEP = 160
"""Samples from a frame to the next: 10 ms."""

WINDOW = 480
CHANNELS = 40

_FFT = 512
_LOWEST_HZ, _HIGHEST_HZ = 125.0, 7_500.0
_WEIGHT_BITS = 12
_CORRECTION_BITS = 3
"""Of the FFT's size over the filterbank's weights: 9 - 12 / 2."""

_NOISE_BITS, _SHARE_BITS = 10, 14
_SMOOTHING = np.where(np.arange(CHANNELS) % 2, int(0.06 * 2**_SHARE_BITS), int(0.025 * 2**_SHARE_BITS))
_REMAINING = int(0.05 * 2**_SHARE_BITS)
_GAIN_BITS, _GAIN_STRENGTH, _GAIN_OFFSET = 21, 0.95, 80.0
_SNR_BITS, _SHRUNK_BITS = 12, 6
_LOG_SCALE = 64.0
_FEATURE_SCALE = 10 / 256
"""What the models' training makes of the frontend's integers."""

Ints = npt.NDArray[np.int64]


class Frontend:
    """Makes features of a stream of samples. Keeps unfinished frames and the estimate of the noise between calls."""

    def __init__(self) -> None:
        """Begins in silence."""
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(WINDOW) + 0.5) / WINDOW)
        self._window: Ints = np.floor(hann * 2**_WEIGHT_BITS + 0.5).astype(np.int64)
        self._filters = _mel_filters()
        self.reset()

    def reset(self) -> None:
        """As made."""
        self._rest: Ints = np.zeros(0, np.int64)
        self._noise: Ints = np.zeros(CHANNELS, np.int64)

    def __call__(self, samples: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """The features of the frames that these samples complete.

        Args:
            samples: [N] at 16 kHz, the next of the stream.

        Returns:
            [frames, 40]: about 0 to 26. The first frame needs 30 ms, each further one 10 ms.
        """
        known = np.concatenate([self._rest, samples.astype(np.int64)])
        count = max((len(known) - WINDOW) // STEP + 1, 0)
        self._rest = known[count * STEP :]
        if not count:
            return np.zeros((0, CHANNELS), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(known, WINDOW)[::STEP][:count]
        return self._features(self._energies(frames))

    def _energies(self, frames: Ints) -> Ints:
        """Samples [frames, 480] -> magnitudes by channel."""
        windowed = (frames * self._window) >> _WEIGHT_BITS
        # As many bits as 16-bit numbers leave go into the FFT, which divides by its size, and come off afterwards.
        largest = np.minimum(np.abs(windowed).max(axis=1), 2**15 - 1)
        shifts = 15 - np.ceil(np.log2(largest + 1)).astype(np.int64)
        spectrum = np.fft.rfft(windowed << shifts[:, np.newaxis], _FFT) / _FFT
        power = np.rint(spectrum.real) ** 2 + np.rint(spectrum.imag) ** 2
        magnitudes = np.rint(np.sqrt(power @ self._filters)).astype(np.int64)
        shifted: Ints = magnitudes >> shifts[:, np.newaxis]
        return shifted

    def _features(self, signals: Ints) -> npt.NDArray[np.float32]:
        noises = np.empty_like(signals)
        scaled = signals << _NOISE_BITS
        for place, signal in enumerate(scaled):
            self._noise = (signal * _SMOOTHING + self._noise * (2**_SHARE_BITS - _SMOOTHING)) >> _SHARE_BITS
            noises[place] = self._noise
        floors = (signals * _REMAINING) >> _SHARE_BITS
        cleaned = np.maximum((scaled - np.minimum(noises, scaled)) >> _NOISE_BITS, floors)
        return _logarithm(_normalized(cleaned, noises))


def _normalized(signals: Ints, noises: Ints) -> Ints:
    """Each channel's signal over a power of its noise: PCAN."""
    loudness = noises / 2.0 ** (_NOISE_BITS - _CORRECTION_BITS) + _GAIN_OFFSET
    gains = np.minimum(np.floor(2.0**_GAIN_BITS * loudness**-_GAIN_STRENGTH + 0.5), 2**15 - 1).astype(np.int64)
    ratios = (signals * gains) >> (_GAIN_BITS - _CORRECTION_BITS - _SNR_BITS)
    weak = ratios < 2 << _SNR_BITS
    squared = np.where(weak, ratios, 0) ** 2 >> (2 + 2 * _SNR_BITS - _SHRUNK_BITS)
    shrunk: Ints = np.where(weak, squared, (ratios >> (_SNR_BITS - _SHRUNK_BITS)) - 2**_SHRUNK_BITS)
    return shrunk


def _logarithm(values: Ints) -> npt.NDArray[np.float32]:
    scaled = values << _CORRECTION_BITS
    logarithms = np.rint(np.log(np.maximum(scaled, 1)) * _LOG_SCALE)
    return np.asarray(np.minimum(logarithms, 2**16 - 1) * _FEATURE_SCALE, np.float32)


def _mel_filters() -> npt.NDArray[np.float64]:
    """[257, 40]: overlapping triangles, evenly spaced in mel, in steps of 2^-12."""

    def mel(hertz: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        scale: npt.NDArray[np.float64] = 1127.0 * np.log1p(hertz / 700.0)
        return scale

    bins = np.arange(_FFT // 2 + 1) * (SAMPLE_RATE / _FFT)
    low, high = mel(np.array([_LOWEST_HZ, _HIGHEST_HZ]))
    edges = low + (high - low) / (CHANNELS + 1) * np.arange(CHANNELS + 2)
    places = mel(bins)
    filters = np.zeros((len(bins), CHANNELS + 1))
    first = int(1.5 + _LOWEST_HZ / (SAMPLE_RATE / _FFT))
    for band in range(CHANNELS + 1):
        inside = (places > edges[band]) & (places <= edges[band + 1])
        inside[:first] = False
        falling = (edges[band + 1] - places[inside]) / (edges[band + 1] - edges[band])
        # A channel rises over one band and falls over the next; the first band only has a falling side.
        filters[inside, band] += np.floor(falling * 2**_WEIGHT_BITS + 0.5)
        if band < CHANNELS:
            filters[inside, band + 1] += np.floor((1 - falling) * 2**_WEIGHT_BITS + 0.5)
    return filters[:, 1:]
