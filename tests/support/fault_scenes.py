"""A device before servers, for the suite of faults."""

from __future__ import annotations

import time
from pathlib import Path

from support.edge_models import publish_scale
from support.fault_load import Ask

from edge_runtime import Model, Runtime
from edge_runtime.config import read_options


def device(path: Path, fallback: str | tuple[str, ...] | None, *versions: int, **options: object) -> Runtime:
    """A runtime that has these versions of `lite`, and asks servers first."""
    for version in versions:
        publish_scale(path / "store", version, float(version), model="lite")
    (path / "store").mkdir(exist_ok=True)
    given = {"fallback": fallback, "policy": "prefer_server", "delegates": ("cpu",), "threads": 1, "cache": None}
    return Runtime(read_options(path / "store", given | options))


def places(model: Model, seen: list[tuple[float, str]], **asked: object) -> Ask:
    """Asks a model, and takes down when and where each was answered."""

    def ask(rows, deadline_s):
        reply = model.predict(rows, deadline_ms=deadline_s * 1000, **asked)
        seen.append((time.monotonic(), reply.place))
        return reply.outputs["y"], reply.version

    return ask


def since(seen: list[tuple[float, str]], at_s: float) -> set[str]:
    """`device` and `server`, whichever has answered since an instant."""
    return {place.split(":")[0] for came_s, place in list(seen) if came_s >= at_s}
