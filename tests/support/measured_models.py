"""Small real SavedModels with several heads or signatures. TensorFlow is imported only inside the functions."""

import numpy as np

CLASSES = 4


def images(count, seed=0, low=0.0):
    return np.random.default_rng(seed).uniform(low, 1.0, size=(count, 8, 8, 1)).astype(np.float32)


def build_all(folder):
    """`heads` and `signatures`, SavedModels under `folder`; the weights are the same each time."""
    import tensorflow as tf

    random = np.random.default_rng(1)

    def dense(columns, size=1.0):
        return tf.constant(random.normal(size=(64, columns)).astype(np.float32) * size)

    weights = [dense(CLASSES), dense(CLASSES), dense(4), dense(CLASSES)]
    spec = tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")
    heads = tf.Module()

    @tf.function(input_signature=[spec])
    def both(image):
        """Two heads of as many classes, four coordinates, and a value that never changes."""
        flat = tf.reshape(image, (-1, 64))
        return {
            "species": tf.nn.softmax(flat @ weights[0]),
            "colour": tf.nn.softmax(flat @ weights[1]),
            "box": flat @ weights[2],
            "temperature": tf.zeros_like(flat[:, :1]) + 0.3,
        }

    heads.both = both
    tf.saved_model.save(heads, str(folder / "heads"), signatures=both)
    module = tf.Module()

    @tf.function(input_signature=[spec])
    def classify(image):
        return {"scores": tf.nn.softmax(tf.reshape(image, (-1, 64)) @ weights[0])}

    @tf.function(input_signature=[spec])
    def contrast(image):
        """A few bright pixels, squared: coarse steps of int8 cost it much."""
        values = tf.reshape(image, (-1, 64)) @ weights[3]
        return {"contrast": tf.exp(values[:, :1]), "mean": tf.reduce_mean(image, axis=(1, 2, 3))}

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, name="row")])
    def other(row):
        return {"sum": tf.reduce_sum(row, axis=1)}

    @tf.function(input_signature=[spec])
    def whole(image):
        """Of all samples together."""
        return {"total": tf.reduce_sum(image)}

    @tf.function(input_signature=[spec])
    def dark(image):
        """Refuses images that are not."""
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_max(image) < 0.1, [image])]):
            return {"darkness": 1 - tf.reduce_mean(image, axis=(1, 2, 3))}

    module.classify, module.contrast, module.other, module.whole = classify, contrast, other, whole
    module.dark = dark
    signatures = {"serving_default": classify, "contrast": contrast, "other": other, "whole": whole, "dark": dark}
    tf.saved_model.save(module, str(folder / "signatures"), signatures=signatures)


def answers(path, image, signature="serving_default"):
    """The SavedModel's outputs."""
    import tensorflow as tf

    found = tf.saved_model.load(str(path)).signatures[signature](image=tf.constant(image))
    return {name: tensor.numpy() for name, tensor in found.items()}


def lite_answers(file, stored, signature="serving_default"):
    """What bare LiteRT answers to what is stored as it is; outputs as the real numbers that they stand for."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file)).get_signature_runner(signature)
    found = runner(image=stored)
    real = {}
    for name, detail in runner.get_output_details().items():
        scale, zero_point = detail["quantization"]
        real[name] = (found[name].astype(np.float32) - zero_point) * np.float32(scale) if scale else found[name]
    return real
