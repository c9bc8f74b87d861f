"""Conversions as the tests of single steps start them: signatures, data and tasks of the small models."""

import numpy as np
from support import converter_models

from converter.artifact import Signature, TensorSpec
from converter.data import Dataset
from converter.quantize import Lowering

IMAGE = TensorSpec(name="image", dtype="float32", shape=(-1, 8, 8, 1))


def signature(name, output, *shape, inputs=(IMAGE,)):
    outputs = (TensorSpec(name=output, dtype="float32", shape=(-1, *shape)),)
    return Signature(name=name, inputs=inputs, outputs=outputs, batch_axis=0)


SCORES = signature("serving_default", "scores", 4)
BRIGHTNESS = signature("brightness", "mean")
FEATURES = signature("serving_default", "features", 16)


def images(folder, count=32, seed=1):
    """A data set of the small models' images, in `folder`."""
    file = folder / f"images-{seed}.npy"
    np.save(file, converter_models.images(count, seed=seed))
    return Dataset(origin="images", samples=count, files={"image": file}, batched=True, keeps_axis=True)


def task(saved_model, recipe, folder, **fields):
    """A conversion with calibration data, which keeps what recipes share in `folder`."""
    defaults = {
        "saved_model": saved_model,
        "signatures": (SCORES,),
        "recipe": recipe,
        "file": folder / f"{recipe.name}.tflite",
        "calibration": images(folder),
        "float_file": folder / "kept_float",
        "calibrated_file": folder / "kept_calibrated",
    }
    return Lowering(**{**defaults, **fields})


def details(file, name="serving_default"):
    """By tensor name: the dtypes of a TFLite file's inputs and outputs."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file)).get_signature_runner(name)
    found = {**runner.get_input_details(), **runner.get_output_details()}
    return {key: np.dtype(detail["dtype"]).name for key, detail in found.items()}


def tensors(file):
    """By name, the dtypes of all tensors of the first subgraph; 4-bit ones read as int8."""
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(model_path=str(file)).get_tensor_details()
    return {detail["name"]: np.dtype(detail["dtype"]).name for detail in found}


def answers(file, output, inputs, name="serving_default"):
    """What a file says, in real numbers, whatever it takes and gives."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file)).get_signature_runner(name)
    fed = {key: _stored(values, runner.get_input_details()[key]) for key, values in inputs.items()}
    values, detail = runner(**fed)[output], runner.get_output_details()[output]
    scale, zero_point = detail["quantization"]
    return (values.astype(np.float32) - zero_point) * scale if scale else values


def _stored(values, detail):
    scale, zero_point = detail["quantization"]
    if not scale:
        return values
    bounds = np.iinfo(detail["dtype"])
    return np.clip(np.rint(values / scale) + zero_point, bounds.min, bounds.max).astype(detail["dtype"])


def plain_conversion(saved_model, file, kind, data=None):
    """What TensorFlow's own converter makes, without any of this project's code."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["serving_default"])
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8-float-io":
        converter.representative_dataset = lambda: ({"image": row[np.newaxis]} for row in np.load(data))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.exclude_conversion_metadata = True
    file.write_bytes(converter.convert())


def count_files_read(task):
    """Lowers, and says which of the shared files were there before."""
    from converter.quantize import lower

    before = [path.exists() for path in (task.float_file, task.calibrated_file)]
    lower(task)
    return before


def quantization_aware(path):
    """A SavedModel with operators that imitate quantization, `image` -> `scores`."""
    import tensorflow as tf

    module = tf.Module()
    random = np.random.default_rng(0)
    dense = tf.constant(random.normal(size=(64, 4)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")])
    def serve(image):
        flow = tf.quantization.fake_quant_with_min_max_args(image, 0.0, 1.0)
        flow = tf.reshape(flow, (-1, 64)) @ tf.quantization.fake_quant_with_min_max_args(dense, -3.0, 3.0)
        return {"scores": tf.quantization.fake_quant_with_min_max_args(flow, -20.0, 20.0)}

    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def answers_to_raw(file, raw):
    """The scores, in real numbers, for stored inputs."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file)).get_signature_runner("serving_default")
    scale, zero_point = runner.get_output_details()["scores"]["quantization"]
    return (runner(image=raw)["scores"].astype(np.float32) - zero_point) * scale
