"""Lowers a SavedModel to one TFLite file. Loads TensorFlow, and may end its process: runs in a child."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.calibration import representative
from converter.data import Array, Dataset
from converter.errors import VariantUnusable
from converter.recipes import Recipe
from converter.sources.saved_model import SERVE_TAG


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """One conversion to do. Picklable.

    Attributes:
        saved_model: What to convert.
        signature_name: Which of its signatures.
        recipe: How.
        calibration: Samples, where the recipe needs them.
        max_samples: How many of them are used at most.
        file: Where the TFLite file is written.
    """

    saved_model: Path
    signature_name: str
    recipe: Recipe
    calibration: Dataset | None
    max_samples: int
    file: Path


def lower(task: Lowering) -> None:
    """Converts the signature by the recipe and writes the TFLite file.

    Raises:
        VariantUnusable: the recipe needs calibration data and there are none, or there are operators that TFLite has
            not (they are named).
        Exception: whatever TensorFlow raises where the model can't be converted so.
    """
    import tensorflow as tf  # noqa: PLC0415  only in a child

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(task.saved_model), signature_keys=[task.signature_name], tags={SERVE_TAG}
    )
    if task.recipe.weights == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if task.recipe.needs_calibration:
        if task.calibration is None:
            raise VariantUnusable(f"{task.recipe.name} needs calibration data")
        converter.representative_dataset = _generator(task.calibration, task.max_samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    try:
        content = converter.convert()
    except Exception as error:
        if operators := operators_without_tflite(str(error)):
            raise VariantUnusable(f"TFLite has no form of these operators: {', '.join(operators)}") from error
        raise
    task.file.write_bytes(content)


def operators_without_tflite(message: str) -> list[str]:
    """The operators that a message of the converter says it could not translate; empty if it is about another fault."""
    names: set[str] = set()
    for line in re.findall(r"^(?:TF Select|Custom) ops: *(.+)$", message, flags=re.MULTILINE):
        names.update(name.strip() for name in line.split(","))
    return sorted(names - {""})


def _generator(calibration: Dataset, max_samples: int) -> Callable[[], Iterator[dict[str, Array]]]:
    """What the converter calls to get samples: as a dict, since by position they would reach the wrong inputs."""

    def samples() -> Iterator[dict[str, Any]]:
        return representative(calibration, max_samples)

    return samples
