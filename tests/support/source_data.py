"""Samples for the models of `source_models`, by input name."""

import numpy as np


def write(name, folder, count=40):
    """`data.npz` for the model, with `count` samples."""
    random = np.random.default_rng(4)

    def normal(*shape):
        return random.normal(size=(count, *shape)).astype(np.float32)

    ranges = {"north": 1.0, "east": 10.0, "south": 100.0, "west": 1_000.0}
    arrays = {
        "four_inputs": {side: normal(3) * high for side, high in ranges.items()},
        "words": {"word": random.choice([b"up", b"down", b"left"], size=count)},
        "tf1": {"features": normal(4)},
        "batched": {"x": normal(4)},
        "lstm.keras": {"steps": normal(6, 3)},
        "gru": {"steps": normal(6, 3)},
        "two_inputs.keras": {"small": normal(4), "large_one": normal(2, 4)},
        "keras_2_optimizer": {"features": normal(4)},
        "custom.keras": {"features": normal(4)},
        "scaler": {"x": normal(20, 3)},
    }[name]
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path
