"""Writes SavedModels of TensorFlow 1 and 2, with and without variables, in a process that has TensorFlow.

They are OUTPUT/{frozen,resource,reference}, the same with _text, whose graphs are texts, and OUTPUT/{tf2,tf2_plain}.
"""


def write_tf1(path, make, *, as_text=False):
    """Its signature is y = x + make(), saved as TensorFlow 1 does it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        y = tf.add(x, make(v1), name="y")
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save(as_text=as_text)


def write_tf2(path, variables):
    """Its signature is y = x + 1, saved as TensorFlow 2 does it, by a variable or by a constant."""
    import tensorflow as tf

    module = tf.Module()
    module.one = tf.Variable(1.0) if variables else 1.0
    function = tf.function(lambda x: {"y": x + module.one}, input_signature=[tf.TensorSpec([None, 2], name="x")])
    tf.saved_model.save(module, str(path), signatures=function)


def write_all(output):
    import tensorflow as tf

    ones = {
        "frozen": lambda v1: tf.ones([2]),
        "resource": lambda v1: v1.get_variable("one", [2], use_resource=True),
        "reference": lambda v1: v1.get_variable("one", [2], use_resource=False),
    }
    for name, make in ones.items():
        write_tf1(output / name, make)
        write_tf1(output / f"{name}_text", make, as_text=True)
    write_tf2(output / "tf2", variables=True)
    write_tf2(output / "tf2_plain", variables=False)
