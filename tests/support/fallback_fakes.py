"""Fakes for the server's edges: an executor, loaders that wait to be told, callers."""

import threading
from types import SimpleNamespace

import numpy as np

from fallback_server.executors.base import Signature, TensorSpec


def spec(name, shape, dtype=np.float32):
    return TensorSpec(name=name, dtype=np.dtype(dtype), shape=shape)


def signature(inputs, outputs, name="serving_default"):
    return Signature(
        name=name,
        inputs={key: spec(key, *_pair(value)) for key, value in inputs.items()},
        outputs={key: spec(key, *_pair(value)) for key, value in outputs.items()},
    )


def _pair(value):
    return value if value and isinstance(value[0], tuple) else (value,)


class FakeExecutor:
    """y = x * factor; `poison` rows raise; every batch is noted."""

    kind = "tensorflow"
    in_process = True

    def __init__(self, *, factor=1.0, poison=None, shape=(-1, 2)):
        self.signatures = {"serving_default": signature({"x": shape}, {"y": shape})}
        self.signature_defs = b"signatures"
        self.factor = factor
        self.poison = poison
        self.batches = []
        self.closed = False

    def run(self, name, inputs):
        x = inputs["x"]
        self.batches.append(len(x))
        if self.poison is not None and (x == self.poison).any():
            raise RuntimeError("secret path /srv/models")
        return {"y": x * self.factor}

    def close(self):
        self.closed = True


class GatedLoader:
    """A loader that waits for `gate`, and then returns or raises `result`; stopped, it raises at once."""

    def __init__(self, result):
        self.result = result
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.loads = 0
        self.retriable = True
        self.bytes = 0
        self.on_lost = None
        self.stopped = False

    def estimated_bytes(self):
        return self.bytes

    def load(self):
        self.loads += 1
        self.begun.set()
        assert self.gate.wait(10)
        if self.stopped:
            raise RuntimeError("stopped")
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def stop(self):
        self.stopped = True
        self.gate.set()


def caller(*, cancelled=False):
    return SimpleNamespace(cancelled=cancelled)
