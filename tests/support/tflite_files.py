"""Real TFLite files, made by TensorFlow's own converter, for tests that read, change, compile and wrap them."""

import shutil
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

IMAGE = (8, 8, 3)
CLASSES = 10


def build_all(folder):
    """The files that are written below, in `folder`. Only in a child process."""
    import tensorflow as tf

    net, odd = _net(tf), _odd(tf)
    _write(tf, net, folder / "float32.tflite")
    _write(tf, net, folder / "dynamic.tflite", optimized=True)
    _write(tf, net, folder / "float16.tflite", optimized=True, types=[tf.float16])
    _write(tf, net, folder / "int8.tflite", optimized=True, io=tf.int8)
    _write(tf, net, folder / "int8_float_io.tflite", optimized=True, io=tf.float32)
    _write(tf, net, folder / "uint8_io.tflite", optimized=True, io=tf.uint8)
    _write(tf, net, folder / "int8_dense_scales.tflite", optimized=True, io=tf.int8, dense_scales=True)
    _write(tf, odd, folder / "odd.tflite")


def _net(tf):
    """Image [N, 8, 8, 3] -> scores [N, 10]: convolution, depthwise convolution, flatten, dense, softmax.

    It flattens as Keras does: by a shape that is computed from the input's.
    """
    random = np.random.default_rng(3)

    def weights(*shape):
        return tf.constant(random.normal(size=shape).astype(np.float32) * 0.2)

    kernel, depthwise, dense, bias = weights(3, 3, 3, 16), weights(3, 3, 16, 1), weights(576, CLASSES), weights(CLASSES)
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, *IMAGE), tf.float32, name="image")])
    def serve(image):
        features = tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "VALID"))
        features = tf.nn.depthwise_conv2d(features, depthwise, (1, 1, 1, 1), "SAME")
        flat = tf.reshape(features, tf.stack([tf.shape(features)[0], 576]))
        return {"scores": tf.nn.softmax(flat @ dense + bias)}

    module.serve = serve
    return module


def _odd(tf):
    """Operators that neither an Edge TPU nor a GPU takes, one after one that they take."""
    module = tf.Module()
    module.serve = tf.function(
        lambda image: {"top": tf.math.top_k(tf.nn.relu(image), 2)[0]},
        input_signature=[tf.TensorSpec((1, 4), tf.float32, name="image")],
    )
    return module


def build_variable(folder):
    """`steps` has a second variable dimension, `where` a size that the values decide. Only in a child process."""
    import tensorflow as tf

    steps, where = tf.Module(), tf.Module()
    steps.serve = tf.function(
        lambda steps: {"sum": tf.reduce_sum(steps, axis=1)},
        input_signature=[tf.TensorSpec((None, None, 3), tf.float32, name="steps")],
    )
    where.serve = tf.function(
        lambda rows: {"places": tf.where(rows > 0.5)},
        input_signature=[tf.TensorSpec((None, 3), tf.float32, name="rows")],
    )
    _write(tf, steps, folder / "steps.tflite")
    _write(tf, where, folder / "where.tflite")


def _write(tf, module, path, *, optimized=False, io=None, types=None, dense_scales=False):
    """`dense_scales`: a scale for each output of dense layers, as TensorFlow has it since 2024 by default."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    if optimized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if types:
        converter.target_spec.supported_types = types
    converter._experimental_disable_per_channel_quantization_for_dense_layers = not dense_scales
    if io:
        converter.representative_dataset = lambda: ({"image": images(1, seed)} for seed in range(8))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = io
    path.write_bytes(converter.convert())


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *IMAGE)).astype(np.float32)


def answers(path, inputs):
    """What bare LiteRT answers by the file's first signature."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    return runner(**inputs)


def answers_in_batch(path, image):
    """The scores that bare LiteRT gives for several images at once."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], image.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(found["index"])


def answers_in_order(path, inputs):
    """What bare LiteRT answers without any signature: inputs and outputs by their order."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def unsigned(source, target):
    """The file without its signatures."""
    from ai_edge_litert import schema_py_generated as schema

    from converter import graph_edit

    model = schema.ModelT.InitFromPackedBuf(Path(source).read_bytes(), 0)
    model.signatureDefs = None
    graph_edit.save(model, Path(target))
    return Path(target)


def shipped(distribution, ending):
    """A file that an installed distribution brings, by its name's ending; None where it is not installed."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(one.locate()) for one in files if str(one).endswith(ending)), None)


def install_compiler(folder, mode="all"):
    """An executable `edgetpu_compiler` in `folder`, see `edgetpu_compiler_standin`; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "edgetpu_compiler"
    tests = str(Path(__file__).parents[1])
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{tests!r}, {str(Path(tests).parent)!r}]\n"
        f"from support.edgetpu_compiler_standin import main\nmain({mode!r}, sys.argv[1:])\n"
    )
    program.chmod(0o755)
    return program


def install_wrapper(folder, program):
    """A shell script before the program, as Debian's package of the compiler has it."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "edgetpu_compiler"
    script.write_text(f'#!{shutil.which("sh")}\n"{program}" "$@"\nexit $?\n')
    script.chmod(0o755)
    return script


def built(server, base):
    """The folder with the files of `build_all`, made by whichever test asks first."""
    folder = Path(base) / "tflite-files"
    if not folder.exists():
        folder.mkdir()
        server.run(build_all, 120.0, folder)
    return folder
