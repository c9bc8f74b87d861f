"""Writes SavedModels that merge requests themselves, or whose signatures share inputs.

In a process that has TensorFlow.

OUTPUT/granular/1 takes rows one by one (x, float32 [-1, 2]), and merges its expensive part, a product of matrices, with
what others ask at the same time: `y` is 3 x, `merged` the rows that were in that product. `plain` is x alone, unmerged.
OUTPUT/counted/1 counts how often its graph is evaluated: `classify` and `regress` read one input of serialized
Examples, and both give out the count; `other` gives the scores of an input of its own.
"""


def write_granular(output):
    import tensorflow as tf

    @tf.nondifferentiable_batch_function(
        num_batch_threads=1,
        max_batch_size=8,
        batch_timeout_micros=1_000_000,
        max_enqueued_batches=64,
    )
    def expensive(x):
        matrix = tf.eye(2) * 3.0
        return tf.linalg.matmul(x, matrix), tf.fill([tf.shape(x)[0], 1], tf.shape(x)[0])

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def granular(x):
        y, merged = expensive(tf.abs(x) * tf.sign(x))
        return {"y": y, "merged": merged}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def plain(x):
        return {"y": x * 1.0}

    module = tf.Module()
    module.granular, module.plain = granular, plain
    tf.saved_model.save(
        module, str(output / "granular" / "1"), signatures={"serving_default": granular, "plain": plain}
    )


def write_counted(output):
    import tensorflow as tf

    tf1 = tf.compat.v1
    defs = tf1.saved_model.signature_def_utils
    with tf.Graph().as_default(), tf1.Session() as session:
        serialized, apart = (tf1.placeholder(tf.string, [None], name=name) for name in ("examples", "apart"))
        count = tf1.get_variable("count", initializer=0.0)
        x = tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        counts = tf.zeros_like(x) + count.assign_add(1.0)
        scores = tf.stack([x, counts], axis=1)
        other = tf.io.parse_example(apart, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        signatures = {
            "classify": defs.classification_signature_def(serialized, None, scores),
            "same": defs.classification_signature_def(serialized, None, scores),
            "regress": defs.regression_signature_def(serialized, counts),
            "other": defs.classification_signature_def(apart, None, other),
        }
        session.run(count.initializer)
        builder = tf1.saved_model.Builder(str(output / "counted" / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
