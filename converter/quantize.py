"""Lowers a SavedModel to one TFLite file. Loads TensorFlow, and may end its process: runs in a child."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from converter.artifact import Signature
from converter.calibration import calibrate, quantize_16x8, samples_for
from converter.data import Dataset
from converter.errors import VariantUnusable
from converter.low_bit import quantize_int4
from converter.ranges import check_folded, set_input_ranges
from converter.recipes import Recipe
from converter.translate import Translator


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """One conversion to do. Picklable.

    What several recipes need is made once: `float_file` and `calibrated_file` are read where they exist, and else
    written by the first recipe that comes to need them.

    Attributes:
        saved_model: What to convert.
        signatures: Those that go into the file; the calibration data are for the first.
        recipe: How.
        file: Where the TFLite file is written.
        calibration: Samples, where the recipe needs them.
        max_samples: How many of them are used at most.
        float_file: The float32 variant; None to keep none.
        calibrated_file: The float32 model with the ranges of its activations, for these data and these signatures;
            None to keep none.
        single_batch_lists: Whether recurrent layers are translated for one batch row, see `translate.Translator`.
        input_ranges: By input name, the real values that the raw bytes 0 and 255 stand for: these inputs become
            uint8 and take the raw values as they are. For full int8 recipes; all inputs are uint8 then.
        float_layers: For a mixed recipe, the output tensors of the operators that are left in float.
    """

    saved_model: Path
    signatures: tuple[Signature, ...]
    recipe: Recipe
    file: Path
    calibration: Dataset | None = None
    max_samples: int = 512
    float_file: Path | None = None
    calibrated_file: Path | None = None
    single_batch_lists: bool = False
    input_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    float_layers: frozenset[str] = frozenset()


def lower(task: Lowering) -> None:
    """Converts the signatures by the recipe and writes the TFLite file.

    Raises:
        VariantUnusable: the recipe needs calibration data and there are none, or none for one of the signatures; the
            quantizer finds nothing to store in 4 bits; an input can't take raw values as they are; the model was
            trained for int8 and the recipe is another one.
        OperatorsUnsupported: there are operators that LiteRT lacks.
        Exception: whatever TensorFlow raises where the model can't be converted so.
    """
    recipe = task.recipe
    if recipe.activations != "int8" and recipe.weights != "float32" and _translator(task).trained_for_quantization:
        raise VariantUnusable(
            f"the model was trained for int8, which every form of it but float32 keeps: {recipe.name} would be the "
            "same as int8-float-io, or not run at all"
        )
    if recipe.activations == "int8":
        content = _int8(task)
    elif recipe.activations == "int16":
        content = _deduplicated(quantize_16x8(_float_model(task), samples_for(*_calibration(task))))
    elif recipe.weights == "int4":
        content = quantize_int4(_float_model(task))
    elif recipe.weights == "float32":
        content = _float_model(task)
    else:
        content = _translator(task).translate("float16" if recipe.weights == "float16" else "dynamic")
    task.file.write_bytes(content)
    if recipe.full_int8 and task.input_ranges:
        check_folded(task.file, task.signatures, task.input_ranges)


def calibrated_model(task: Lowering) -> bytes:
    """The float32 model with the ranges of its activations, from the first recipe that needed it or made now.

    Raises: as `lower`.
    """
    return _kept(task.calibrated_file, lambda: _calibrated(task))


def _calibrated(task: Lowering) -> bytes:
    samples = samples_for(*_calibration(task))
    translator = _translator(task)
    if translator.trained_for_quantization:
        return translator.translate_calibrated(samples)
    return calibrate(_float_model(task), samples)


def _int8(task: Lowering) -> bytes:
    import tensorflow as tf  # noqa: PLC0415  only in a child
    from tensorflow.lite.python import convert  # noqa: PLC0415

    calibrated = calibrated_model(task)
    into, out = tf.float32, tf.float32
    if task.recipe.io == "int8":
        into, out = tf.int8, tf.int8
        if task.input_ranges:
            into = tf.uint8
            calibrated = set_input_ranges(calibrated, task.signatures, task.input_ranges)
    return _deduplicated(
        convert.mlir_quantize(
            calibrated,
            input_data_type=into,
            output_data_type=out,
            denylisted_nodes=sorted(task.float_layers) if task.recipe.mixed else None,
            # The Edge TPU's compiler dates from before dense layers had a scale for each output: see `edgetpu`.
            disable_per_channel_for_dense_layers=task.recipe.full_int8,
        )
    )


def _deduplicated(content: bytes) -> bytes:
    """Equal constants stored once, as TensorFlow's converter ends."""
    from tensorflow.lite.python import convert  # noqa: PLC0415  only in a child

    return bytes(convert.deduplicate_readonly_buffers(content))


def _float_model(task: Lowering) -> bytes:
    return _kept(task.float_file, lambda: _translator(task).translate("float32"))


def _translator(task: Lowering) -> Translator:
    names = [signature.name for signature in task.signatures]
    return Translator(task.saved_model, names, single_batch_lists=task.single_batch_lists)


def _calibration(task: Lowering) -> tuple[tuple[Signature, ...], Dataset, int]:
    if task.calibration is None:
        raise VariantUnusable(f"{task.recipe.name} needs calibration data")
    return task.signatures, task.calibration, task.max_samples


def _kept(file: Path | None, make: Callable[[], bytes]) -> bytes:
    """The file's bytes; where there is no such file yet they are made, and written for the next one."""
    if file is None:
        return make()
    if not file.exists():
        content = make()
        # Several recipes may come at once, each in its own process; all would write the same bytes.
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_bytes(content)
        part.replace(file)
        return content
    return file.read_bytes()
