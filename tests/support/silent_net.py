"""A net of which int8 leaves nothing early on: of a block with loud channels it uses only the others."""

import numpy as np

CHANNELS = 32
LOUD = 1e5
LOUD_CHANNELS = [3, 17]


def build(path):
    """SavedModel: `image` [N, 8, 8, 1] -> `features` [N, 16].

    The loud channels of `depthwise0` are multiplied by 0 in `pointwise0`; those of `depthwise2` are taken as much
    more softly in `pointwise2`; nothing is wrong with the block between them.
    """
    import tensorflow as tf

    random = np.random.default_rng(5)

    def weights(*shape):
        fan_in = np.prod(shape[:-1]) if shape[-1] != 1 else 9
        return (np.abs(random.normal(size=shape)) / np.sqrt(fan_in)).astype(np.float32)

    stem = weights(3, 3, 1, CHANNELS)
    blocks = [(weights(3, 3, CHANNELS, 1), weights(1, 1, CHANNELS, CHANNELS)) for _ in range(3)]
    for index, kept in ((0, 0.0), (2, 1.0 / LOUD)):
        deep, wide = blocks[index]
        deep[:, :, LOUD_CHANNELS] *= LOUD
        wide[:, :, LOUD_CHANNELS] *= kept
    head = weights(CHANNELS, 16)
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")])
    def serve(image):
        flow = tf.nn.relu(tf.nn.conv2d(image, stem, 1, "SAME", name="stem"))
        for index, (deep, wide) in enumerate(blocks):
            flow = tf.nn.relu(tf.nn.depthwise_conv2d(flow, deep, [1, 1, 1, 1], "SAME", name=f"depthwise{index}"))
            flow = tf.nn.relu(tf.nn.conv2d(flow, wide, 1, "SAME", name=f"pointwise{index}"))
        return {"features": tf.reduce_mean(flow, axis=(1, 2)) @ head}

    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def undefined(path):
    """SavedModel: `image` [N, 8, 8, 1] -> `features` [N, 16], of logarithms, some of them of negative numbers."""
    import tensorflow as tf

    head = np.random.default_rng(5).normal(size=(64, 16)).astype(np.float32)
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")])
    def serve(image):
        return {"features": tf.math.log(tf.reshape(image, (-1, 64)) @ head)}

    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def names(file):
    """The names of the tensors that a float32 TFLite file computes."""
    from ai_edge_litert.interpreter import Interpreter

    return {detail["name"] for detail in Interpreter(model_path=str(file)).get_tensor_details()}
