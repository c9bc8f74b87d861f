"""Finds the ranges of activations by running samples. Loads TensorFlow: runs in a child."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from converter.artifact import Signature
from converter.data import Array, Dataset
from converter.errors import VariantUnusable
from converter.observed_ranges import Sample, observed


def representative(calibration: Dataset, max_samples: int) -> Iterator[dict[str, Array]]:
    """Samples one at a time, by input name, at most `max_samples`, evenly spread; the same ones every time."""
    return (batch.inputs for batch in calibration.spread(max_samples))


def samples_for(
    signatures: Sequence[Signature], calibration: Dataset, max_samples: int
) -> Callable[[], Iterator[Sample]]:
    """What TensorFlow calls to get samples: as dicts, since by position they would reach the wrong inputs.

    Args:
        signatures: Those of the file. The data are for the first; another one is run with the same samples.
        calibration: The data.
        max_samples: How many of them are used at most.

    Raises:
        VariantUnusable: a further signature takes other inputs, so that nothing is known of its ranges.
    """
    first, *others = signatures
    for other in others:
        if not _takes_the_same(first, other):
            raise VariantUnusable(
                f"signature {other.name!r} takes {_listed(other)}; the calibration data are for {first.name!r}, "
                f"which takes {_listed(first)}: convert it by itself"
            )
    if not others:
        return lambda: representative(calibration, max_samples)

    def each() -> Iterator[Sample]:
        for signature in signatures:
            for inputs in representative(calibration, max_samples):
                yield signature.name, {spec.name: inputs[spec.name] for spec in signature.inputs}

    return each


def _takes_the_same(first: Signature, other: Signature) -> bool:
    known = {spec.name: spec for spec in first.inputs}
    return all(
        spec.name in known and (spec.dtype, spec.shape) == (known[spec.name].dtype, known[spec.name].shape)
        for spec in other.inputs
    )


def _listed(signature: Signature) -> str:
    return ", ".join(f"{spec.name} {spec}" for spec in signature.inputs)


def calibrate(float_model: bytes, samples: Callable[[], Iterator[Sample]]) -> bytes:
    """The float32 TFLite model with the ranges of its activations written into it."""
    return observed(float_model, bytes(_calibrator(float_model).calibrate(samples)), samples())


def quantize_16x8(calibrated: bytes) -> bytes:
    """The model with int16 activations; operators that have no such form stay in float.

    Args:
        calibrated: As of `calibrate`.
    """
    import tensorflow as tf  # noqa: PLC0415  only in a child

    # TensorFlow's own call runs samples first; without any, the quantizer takes the ranges that the model has.
    return bytes(
        _calibrator(calibrated)._calibrator.QuantizeModel(  # noqa: SLF001
            *(_number(dtype) for dtype in (tf.float32, tf.float32)),
            True,  # operators without an int16 form stay in float
            *(_number(dtype) for dtype in (tf.int16, tf.int64)),
            False,  # a scale for each channel of weights
            False,  # of dense layers too
        )
    )


def _number(dtype: Any) -> int:
    return int(np.dtype(dtype.as_numpy_dtype).num)


def _calibrator(float_model: bytes) -> Any:
    from tensorflow.lite.python.optimize import calibrator  # noqa: PLC0415  only in a child

    return calibrator.Calibrator(calibrator.add_intermediate_tensors(float_model))
