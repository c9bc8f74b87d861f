"""A custom layer of Keras 3, and what `custom_objects` may point to. Only for child processes."""

import keras


class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs


def halved(x):
    return 0.5 * x


OBJECTS = {"Doubled": Doubled}

NEITHER = 7
