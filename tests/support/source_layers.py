"""Custom layers of Keras 3 and 2, and what `custom_objects` may point to. Only for child processes."""

import keras
import tf_keras


class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs


class Halved(tf_keras.layers.Layer):
    def call(self, inputs):
        return 0.5 * inputs


OBJECTS = {"Doubled": Doubled}

NEITHER = 7
