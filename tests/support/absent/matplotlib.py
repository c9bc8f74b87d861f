"""Stands before the real one on the path of the tests and of what they start.

Keras imports matplotlib and scikit-learn where it finds them, which is a third of the time that TensorFlow takes to
start. They are here for examples and figures alone: beside a converter or a server of a user's there is neither.
"""

raise ModuleNotFoundError("the tests do without matplotlib", name="matplotlib")
