"""Writes tiny SavedModels. Run as a program, so that a test's own process needn't import TensorFlow.

python fallback_models.py OUTPUT
    writes OUTPUT/scale/{1,2,3} (y = x * version, float32 [-1, 3]),
    OUTPUT/many/1 (several inputs, outputs and signatures), OUTPUT/text/1 (strings),
    OUTPUT/sums/1 (a variable first dimension that is no batch), OUTPUT/slow/1 (a good part of a second a run),
    OUTPUT/conv/1 (whose kernel aborts the process on a wrong rank).
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def spec(shape, name, dtype="float32"):
    import tensorflow as tf

    return tf.TensorSpec(shape, tf.as_dtype(dtype), name=name)


def save(path, functions, **variables):
    import tensorflow as tf

    module = tf.Module()
    for name, variable in variables.items():
        setattr(module, name, variable)
    signatures = {}
    for name, (function, specs) in functions.items():
        signatures[name] = tf.function(function, input_signature=specs)
        setattr(module, f"f_{name}", signatures[name])
    tf.saved_model.save(module, str(path), signatures=signatures)


def write_plain(output):
    import tensorflow as tf

    def scale(version):
        factor = tf.Variable(float(version))
        function = (lambda x: {"y": x * factor}, [spec([None, 3], "x")])
        save(output / "scale" / str(version), {"serving_default": function}, factor=factor)

    for version in (1, 2, 3):
        scale(version)
    kernel = tf.Variable(tf.ones([3, 3, 1, 2]))
    conv = (lambda image: {"y": tf.nn.conv2d(image, kernel, 1, "SAME")}, [spec([None, 8, 8, 1], "image")])
    save(output / "conv" / "1", {"serving_default": conv}, kernel=kernel)


def write_odd(output):
    import tensorflow as tf

    def both(a, b):
        return {"sum": a + tf.cast(b, tf.float32), "twice": b * 2}

    def gather(index):
        return {"value": tf.gather(tf.constant([10.0, 20.0, 30.0]), index)}

    def wide(x):
        return {"mean": tf.reduce_mean(x, axis=1)}

    def slow(x):
        def more(index, matrix):
            return index + 1, tf.linalg.matmul(matrix, matrix) * 0.0

        matrix = tf.while_loop(lambda index, _: index < 3000, more, [0, tf.eye(192)])[1]
        return {"y": x + matrix[0, 0]}

    many = {
        "serving_default": (both, [spec([None, 2], "a"), spec([None, 2], "b", "int32")]),
        "gather": (gather, [spec([None], "index", "int64")]),
        "wide": (wide, [spec([None, None], "x")]),
    }
    save(output / "many" / "1", many)
    text = (lambda s: {"out": tf.strings.join([s, "!"])}, [spec([None], "s", "string")])
    save(output / "text" / "1", {"serving_default": text})
    save(output / "sums" / "1", {"serving_default": (lambda x: {"y": x[:2]}, [spec([None], "x")])})
    save(output / "slow" / "1", {"serving_default": (slow, [spec([None, 3], "x")])})


def write_all(output):
    write_plain(output)
    write_odd(output)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
