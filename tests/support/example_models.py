"""Writes a SavedModel that takes serialized Examples, in a process that has TensorFlow.

OUTPUT/examples/1 has signatures as TensorFlow 1 writes them: `serving_default` (classify: classes and scores),
`scores` (classify: scores alone), `regress` (regress) and `predict` (predict, the scores of the same input), all of the
feature `x` (two floats): the scores are x and x + 1, the labels "low" and "high", the regression is their sum.
"""


def main(output):
    import tensorflow as tf

    tf1 = tf.compat.v1
    defs = tf1.saved_model.signature_def_utils
    with tf.Graph().as_default(), tf1.Session() as session:
        serialized = tf1.placeholder(tf.string, [None], name="examples")
        x = tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([2], tf.float32)})["x"]
        labels = tf.tile([["low", "high"]], [tf.shape(x)[0], 1])
        scores = tf.stack([x[:, 0], x[:, 0] + 1], axis=1)
        zero = tf1.get_variable("zero", initializer=0.0)
        total = tf.reduce_sum(x, axis=1) + zero
        signatures = {
            "serving_default": defs.classification_signature_def(serialized, labels, scores),
            "scores": defs.classification_signature_def(serialized, None, scores),
            "regress": defs.regression_signature_def(serialized, total),
            "predict": defs.predict_signature_def({"inputs": serialized}, {"scores": scores}),
        }
        session.run(zero.initializer)
        builder = tf1.saved_model.Builder(str(output / "examples" / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
