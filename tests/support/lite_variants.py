"""TFLite files by TensorFlow's converter alone, and models with outputs of other kinds. Runs in a child process."""

import numpy as np


def lower(saved_model, file, signatures=("serving_default",), *, samples=None, io="float32"):
    """Lowers signatures; with `samples` (by input name, of the first one) to full int8 with that input dtype."""
    import tensorflow as tf
    from tensorflow.lite.python import lite

    # `from_saved_model` drops all but one signature of a module that has a function called `serve`.
    converter = lite.TFLiteSavedModelConverterV2(str(saved_model), {"serve"}, list(signatures))
    if samples is not None:
        rows = len(next(iter(samples.values())))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            (signatures[0], {name: values[at : at + 1] for name, values in samples.items()}) for at in range(rows)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.dtypes.as_dtype(io)
        converter.inference_output_type = tf.int8
    file.write_bytes(converter.convert())


def build_outputs(folder):
    """A model with an output of every kind, of an input [N, 4], and one that names words."""
    import tensorflow as tf

    random = np.random.default_rng(3)
    kernel = tf.constant(random.normal(size=(4, 24)).astype(np.float32))
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def serve(x):
        found = x @ kernel
        return {
            "scores": tf.nn.softmax(found[:, :3]),
            "notes": tf.reshape(tf.sigmoid(found), (-1, 4, 6)),
            "forecast": found[:, :1],
            "ids": tf.argmax(found, axis=1, output_type=tf.int32),
        }

    tf.saved_model.save(module_with(module, serve), str(folder / "kinds"), signatures=serve)
    words = tf.Module()
    words.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), tf.constant(["one", "two", "three"])), "?"
    )
    words.serve = tf.function(
        lambda number: {"word": words.table.lookup(number)},
        input_signature=[tf.TensorSpec((None,), tf.int64, "number")],
    )
    tf.saved_model.save(words, str(folder / "words"), signatures=words.serve)
    text = tf.Module()
    text.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(["one", "two"]), tf.constant([1, 2], tf.int64)), -1
    )
    text.serve = tf.function(
        lambda word: {"number": text.table.lookup(word)}, input_signature=[tf.TensorSpec((None,), tf.string, "word")]
    )
    tf.saved_model.save(text, str(folder / "text"), signatures=text.serve)


def module_with(module, function):
    module.serve = function
    return module


def answered(saved_model, dataset, folder):
    """The original's answers, laid out as a conversion does."""
    import tensorflow as tf

    from converter.outputs import OutputWriter

    function = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    writer = OutputWriter(folder, sorted(function.structured_outputs), dataset)
    for batch in dataset.batches():
        found = function(**{name: tf.constant(values) for name, values in batch.inputs.items()})
        writer.add(batch, {name: np.asarray(tensor.numpy()) for name, tensor in found.items()})
    return writer.finish()
