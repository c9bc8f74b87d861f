"""A net with skip connections whose branches are much softer than what they are added to."""

import numpy as np

CHANNELS = 16


def build(path):
    """SavedModel: `image` [N, 8, 8, 1] -> `scores` [N, 4]."""
    import tensorflow as tf

    random = np.random.default_rng(0)

    def weights(*shape, scale=1.0):
        return tf.constant((scale * random.normal(size=shape)).astype(np.float32))

    stem, dense = weights(3, 3, 1, CHANNELS), weights(CHANNELS, 4)
    branches = [weights(1, 1, CHANNELS, CHANNELS, scale=0.02) for _ in range(2)]
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")])
    def serve(image):
        flow = tf.nn.relu(tf.nn.conv2d(image, stem, 1, "SAME")) * 30.0
        for branch in branches:
            flow = flow + tf.nn.conv2d(tf.nn.relu(flow), branch, 1, "SAME")
        # Of one place: a mean over all of them would hide what each has lost.
        return {"scores": flow[:, 3, 3, :] @ dense}

    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def ranges(file):
    """By tensor name, the range that a calibrated file holds."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    found = {one.name.decode(): one.quantization for one in model.subgraphs[0].tensors}
    return {
        name: (float(one.min[0]), float(one.max[0]))
        for name, one in found.items()
        if one is not None and one.min is not None and len(one.min)
    }


def real_ranges(file, images):
    """By tensor name, the range that a plain run with each image has."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(file),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    found = {}
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis])
        interpreter.invoke()
        for detail in interpreter.get_tensor_details():
            if detail["dtype"] is np.float32 and detail["shape"].size:
                values = interpreter.get_tensor(detail["index"])
                low, high = found.get(detail["name"], (np.inf, -np.inf))
                found[detail["name"]] = min(low, float(values.min())), max(high, float(values.max()))
    return found
