"""A small depthwise net with loud channels, untrained: its layers 1 and 2 are what int8 ruins."""

import numpy as np

CHANNELS = 32
LOUD = 5_000.0
LOUD_CHANNELS = (3, 17)


def build(path, channels=CHANNELS):
    """SavedModel: `image` [N, 8, 8, 1] -> `features` [N, 16]; the block in the middle has two loud channels."""
    import tensorflow as tf

    random = np.random.default_rng(5)

    def weights(*shape):
        fan_in = np.prod(shape[:-1]) if shape[-1] != 1 else 9
        return (random.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)

    stem = weights(3, 3, 1, channels)
    blocks = [(weights(3, 3, channels, 1), weights(1, 1, channels, channels)) for _ in range(3)]
    loud = np.ones(channels, np.float32)
    loud[list(LOUD_CHANNELS)] = LOUD
    depthwise, pointwise = blocks[1]
    blocks[1] = (depthwise * loud[:, np.newaxis], pointwise / loud[:, np.newaxis])
    head = weights(channels, 16)
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
