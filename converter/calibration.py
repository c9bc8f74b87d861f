"""Finds the ranges of activations by running samples. Loads TensorFlow: runs in a child."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from converter.artifact import Signature
from converter.data import Array, Dataset
from converter.errors import VariantUnusable
from converter.observed_ranges import Sample, has_inner_tensors, observed


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
    """The float32 TFLite model with the ranges of its activations written into it.

    TensorFlow's calibrator decides which tensors have one. What they are is observed apart, for the tensors of the
    signatures' own subgraphs, so that one sample for each signature is enough for it where there are no others.
    """
    told = samples if has_inner_tensors(float_model) else lambda: _first_of_each(samples())
    return observed(float_model, bytes(_calibrator(float_model).calibrate(told)), samples())


def _first_of_each(samples: Iterator[Sample]) -> Iterator[Sample]:
    """The first sample of each signature."""
    seen: set[str] = set()
    for sample in samples:
        name = sample[0] if isinstance(sample, tuple) else ""
        if name not in seen:
            seen.add(name)
            yield sample
        if not name:
            return


def quantize_16x8(float_model: bytes, samples: Callable[[], Iterator[Sample]]) -> bytes:
    """The model with int16 activations; operators that have no such form stay in float.

    The quantizer for it takes the ranges straight from its own run, as TensorFlow's calibrator has them: too wide ones
    cost some of 16 bits. (Given the calibrated model and no samples, it fails now and then.)
    """
    import tensorflow as tf  # noqa: PLC0415  only in a child

    return bytes(
        _calibrator(float_model).calibrate_and_quantize(
            samples, tf.float32, tf.float32, allow_float=True, activations_type=tf.int16, bias_type=tf.int64
        )
    )


def _calibrator(float_model: bytes) -> Any:
    from tensorflow.lite.python.optimize import calibrator  # noqa: PLC0415  only in a child

    return calibrator.Calibrator(calibrator.add_intermediate_tensors(float_model))
