"""The models of a soak, and their versions: each multiplies by a number that follows from the version's."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from support.edge_models import publish_scale, scale_model

from benchmarks.soak.outcomes import WrongAnswer
from edge_runtime.errors import InvalidConfig
from edge_runtime.store.removal import remove
from edge_runtime.store.store import Store

NARROW, WIDE = 4, 20_000
WIDTHS = {"narrow": NARROW, "wide": WIDE, "python": NARROW, "device": NARROW}
"""Values in a row, by model: the first two run in the server's process, `python` in one of its own, `device` on it."""

SEQUENCES = "adds"

_KEPT = 3
"""Versions that stay on disk: what is loaded, and what may still be read."""

_LARGEST = 2**12

_PYTHON = """
import numpy as np


class Model:
    def __init__(self, path):
        specs = {{"inputs": {{"x": ("float32", (-1, {width}))}}, "outputs": {{"y": ("float32", (-1, {width}))}}}}
        self.signatures = {{"serving_default": specs}}

    def predict(self, signature, inputs):
        return {{"y": inputs["x"] * np.float32({factor})}}
"""

_ADDS = """
class Model:
    def __init__(self, path):
        inputs = {"x": ("float32", (-1, 2)), "state": ("float32", (-1, 2))}
        outputs = {"total": ("float32", (-1, 2)), "next_state": ("float32", (-1, 2))}
        self.signatures = {"step": {"inputs": inputs, "outputs": outputs}}

    def predict(self, signature, inputs):
        total = inputs["x"] + inputs["state"]
        return {"total": total, "next_state": total}
"""


def factor(version: int) -> int:
    """What a version multiplies by."""
    return 1 + version % 50


def some_rows(generator: np.random.Generator, model: str) -> np.ndarray:
    """One to four rows of whole numbers, whose products float32 has exactly."""
    shape = (int(generator.integers(1, 5)), WIDTHS[model])
    return generator.integers(-_LARGEST, _LARGEST, shape).astype(np.float32)


def check(x: np.ndarray, y: np.ndarray, version: int) -> None:
    """Whether an answer is what the version makes of the request.

    Raises:
        WrongAnswer: it is not.
    """
    if y.shape != x.shape or not np.array_equal(y, x * np.float32(factor(version))):
        raise WrongAnswer(f"version {version} has answered {y.ravel()[:4]} to {x.ravel()[:4]}")


def check_nameless(x: np.ndarray, y: np.ndarray) -> None:
    """As `check`, of an answer that names no version: it is that of one, and of one for all its values.

    Raises:
        WrongAnswer: it is not.
    """
    found = {int(each) for each in np.unique(y[x != 0] / x[x != 0])}
    if y.shape != x.shape or (found and not any(np.array_equal(y, x * np.float32(each)) for each in found)):
        raise WrongAnswer(f"no version answers {y.ravel()[:4]} to {x.ravel()[:4]}")


class Repository:
    """The server's folder and the device's store.

    Args:
        folder: An empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.served, self.store = folder / "served", folder / "store"
        self.versions = dict.fromkeys(WIDTHS, 0)
        self.served.mkdir()
        adds = self.served / SEQUENCES / "1"
        adds.mkdir(parents=True)
        (adds / "model.py").write_text(_ADDS)
        for model in WIDTHS:
            self.publish(model)

    def publish(self, model: str) -> int:
        """A next version, which comes whole; those that nobody reads any more go."""
        version = self.versions[model] = self.versions[model] + 1
        if model == "device":
            publish_scale(self.store, version, float(factor(version)), model=model)
            if version > _KEPT:
                with contextlib.suppress(InvalidConfig):  # It is open still: the next time.
                    for old in Store(self.store).versions(model)[:-_KEPT]:
                        remove(Store(self.store), model, old)
            return version
        if model == "python":
            content = _PYTHON.format(width=WIDTHS[model], factor=factor(version)).encode()
            self._put(model, version, "model.py", content)
        else:
            self._put(model, version, "model.tflite", scale_model(float(factor(version)), width=WIDTHS[model]))
        return version

    def corrupt(self, model: str) -> int:
        """A next version that is none."""
        version = self.versions[model] = self.versions[model] + 1
        self._put(model, version, "model.tflite", scale_model(1.0)[:100])
        return version

    def _put(self, model: str, version: int, name: str, content: bytes) -> None:
        made = self.served / f".{model}-{version}"
        made.mkdir()
        (made / name).write_bytes(content)
        (self.served / model).mkdir(exist_ok=True)
        made.rename(self.served / model / str(version))
        for old in (self.served / model).iterdir():
            if int(old.name) <= version - _KEPT:
                shutil.rmtree(old)
