"""Which samples the ranges of activations are found from."""

from __future__ import annotations

from collections.abc import Iterator

from converter.data import Array, Dataset


def representative(calibration: Dataset, max_samples: int) -> Iterator[dict[str, Array]]:
    """Samples one at a time, by input name, at most `max_samples`, evenly spread; the same ones every time."""
    return (batch.inputs for batch in calibration.spread(max_samples))
