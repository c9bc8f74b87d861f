"""Small real SavedModels. TensorFlow is imported only inside the functions, which run in a child process."""

from pathlib import Path

import numpy as np

CLASSES = 4


def build_all(folder):
    """Makes every model of these tests under `folder`, one directory each."""
    import tensorflow as tf

    for name, make in (("cnn", _cnn), ("three_inputs", _three_inputs), ("one_by_one", _one_by_one), ("flex", _flex)):
        module, signatures = make(tf)
        tf.saved_model.save(module, str(Path(folder) / name), signatures=signatures)
    _lstm(tf, Path(folder) / "lstm")
    _retag(Path(folder) / "cnn", Path(folder) / "untagged")


def _cnn(tf):
    """Image [N, 8, 8, 1] -> scores [N, 4]; a second signature gives the image's mean."""
    random = np.random.default_rng(1)
    kernel = tf.constant(random.normal(size=(3, 3, 1, 16)).astype(np.float32))
    # Large enough for the converter's smallest weights that it stores as int8 (1,024 elements).
    dense = tf.constant(random.normal(size=(256, CLASSES)).astype(np.float32) * 0.1)
    image = tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")
    module = tf.Module()

    @tf.function(input_signature=[image])
    def serve(image):
        features = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME")), 2, 2, "VALID")
        return {"scores": tf.nn.softmax(tf.reshape(features, (-1, 256)) @ dense)}

    @tf.function(input_signature=[image])
    def brightness(image):
        return {"mean": tf.reduce_mean(image, axis=(1, 2, 3))}

    module.serve, module.brightness = serve, brightness
    return module, {"serving_default": serve, "brightness": brightness}


def _three_inputs(tf):
    """Inputs zeta, alpha and mid, all [N, 4], of ranges 100, 1 and 10.

    The TFLite file has them in an order that is neither this one nor the names': calibrated by position, the ranges
    would be mixed up.
    """
    module = tf.Module()
    module.serve = tf.function(
        lambda zeta, alpha, mid: {"sum": tf.nn.relu(zeta) * 0.5 + alpha * 50.0 + mid * 5.0},
        input_signature=[tf.TensorSpec((None, 4), tf.float32, name=name) for name in ("zeta", "alpha", "mid")],
    )
    return module, module.serve


def _one_by_one(tf):
    """A matrix [3, 5] -> its rows' sums [3] and the number of its positive values, without any batch."""
    module = tf.Module()
    module.serve = tf.function(
        lambda matrix: {
            "sums": tf.reduce_sum(matrix, axis=1),
            "positive": tf.reduce_sum(tf.cast(matrix > 0, tf.int32)),
        },
        input_signature=[tf.TensorSpec((3, 5), tf.float32, name="matrix")],
    )
    return module, module.serve


def _flex(tf):
    """An operator that TFLite lacks."""
    module = tf.Module()
    module.serve = tf.function(
        lambda matrix: {"determinant": tf.linalg.det(matrix)},
        input_signature=[tf.TensorSpec((None, 3, 3), tf.float32, name="matrix")],
    )
    return module, module.serve


def _lstm(tf, path):
    """Exported for a batch of one; its int8 conversion ends the process with a segmentation fault."""
    import keras

    keras.utils.set_random_seed(0)
    steps = keras.Input(batch_shape=(1, 6, 3), name="steps")
    model = keras.Model(steps, keras.layers.Dense(2)(keras.layers.LSTM(4)(steps)))
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name="serving_default",
        fn=lambda steps: {"forecast": model(steps)},
        input_signature=[tf.TensorSpec((1, 6, 3), tf.float32, name="steps")],
    )
    archive.write_out(str(path), verbose=False)


def _retag(source, target):
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString((source / "saved_model.pb").read_bytes())
    del model.meta_graphs[0].meta_info_def.tags[:]
    model.meta_graphs[0].meta_info_def.tags.extend(["train"])
    target.mkdir()
    (target / "saved_model.pb").write_bytes(model.SerializeToString())


def answers(path, inputs):
    """The SavedModel's outputs for `inputs`."""
    import tensorflow as tf

    found = tf.saved_model.load(str(path)).signatures["serving_default"](
        **{name: tf.constant(array) for name, array in inputs.items()}
    )
    return {name: tensor.numpy() for name, tensor in found.items()}


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, 8, 8, 1)).astype(np.float32)


def lite_outputs(file, inputs):
    """What bare LiteRT answers, without any of this project's code."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file)).get_signature_runner("serving_default")
    return runner(**inputs)
