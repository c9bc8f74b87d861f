"""Models with a state: one that only adds, and a GRU, with what TensorFlow answers to whole sequences.

Run as a program, so that a test's own process needn't import TensorFlow:

python sequence_models.py OUTPUT [UNITS [FEATURES [LAYERS]]]
    writes OUTPUT/gru/1, whose signature `step` takes x, float32 [-1, FEATURES], and a state of each layer, and gives y,
    float32 [-1, 2], and the next states; without UNITS also OUTPUT/sequences.npz, 64 sequences of different lengths
    with what Keras' own loop over the same cells makes of them, each alone.
"""

import os
import sys
from pathlib import Path

import numpy as np
from support.fallback_fakes import FakeExecutor, signature

SEQUENCES = 64
FEATURES = 6


def lengths():
    """Of the sequences: from 1 to 30, mixed."""
    return [1 + 7 * index % 30 for index in range(SEQUENCES)]


class AddingExecutor(FakeExecutor):
    """total = next_state = state + x, row by row; a NaN fails, and so does what is dead; every batch is noted."""

    def __init__(self, **options):
        super().__init__(**options)
        row = (-1, 2)
        step = signature({"x": row, "state": row}, {"total": row, "next_state": row}, name="step")
        self.signatures = {"step": step, "plain": signature({"x": row}, {"total": row}, name="plain")}

    def run(self, name, inputs):
        self.batches.append(len(inputs["x"]))
        if np.isnan(inputs["x"]).any():
            raise RuntimeError("secret path /srv/models")
        total = inputs["x"] + inputs.get("state", 0)
        return {"total": total} if name == "plain" else {"total": total, "next_state": total.copy()}


class GrowingExecutor(FakeExecutor):
    """The state is all that was ever sent, a column a step: float32 [-1, -1]."""

    def __init__(self):
        super().__init__()
        specs = {"x": (-1, 1), "state": (-1, -1)}, {"sum": (-1, 1), "state": (-1, -1)}
        self.signatures = {"step": signature(*specs, name="step")}

    def run(self, name, inputs):
        state = np.concatenate([inputs["state"], inputs["x"]], axis=1)
        return {"sum": state.sum(axis=1, keepdims=True), "state": state}


def write_gru(output, units=24, features=FEATURES, layers=2):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    tf.keras.utils.set_random_seed(7)
    cells = [tf.keras.layers.GRUCell(units) for _ in range(layers)]
    for index, cell in enumerate(cells):
        cell.build((None, features if index == 0 else units))
    head = tf.Variable(tf.random.stateless_normal([units, 2], seed=[3, 4]))

    def step(x, **states):
        given = {}
        for index, cell in enumerate(cells):
            x, (after,) = cell(x, [states[f"state_{index}"]])
            given[f"next_state_{index}"] = after
        return {"y": tf.linalg.matmul(x, head), **given}

    specs = {f"state_{index}": tf.TensorSpec([None, units], tf.float32, f"state_{index}") for index in range(layers)}
    module = tf.Module()
    module.variables_ = [*[weight.value for cell in cells for weight in cell.weights], head]
    module.step = tf.function(step)
    concrete = module.step.get_concrete_function(tf.TensorSpec([None, features], tf.float32, "x"), **specs)
    tf.saved_model.save(module, str(output / "gru" / "1"), signatures={"step": concrete})
    return cells, head


def write_sequences(output, cells, head):
    import tensorflow as tf

    loop = tf.keras.layers.RNN(cells, return_sequences=True)
    generator = np.random.default_rng(5)
    arrays = {}
    for index, length in enumerate(lengths()):
        x = generator.standard_normal((1, length, FEATURES)).astype(np.float32)
        arrays[f"x{index}"] = x[0]
        arrays[f"y{index}"] = np.einsum("tu,uy->ty", loop(x).numpy()[0], head.numpy())
    np.savez(output / "sequences.npz", **arrays)


def write_all(output):
    write_sequences(output, *write_gru(output))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        write_all(Path(sys.argv[1]))
    else:
        write_gru(Path(sys.argv[1]), *map(int, sys.argv[2:]))
