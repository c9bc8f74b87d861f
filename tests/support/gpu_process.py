"""What is tried on the GPU, in a process that finds one: `python gpu_process.py`. Prints one JSON object."""

from __future__ import annotations

import json
import sys

import numpy as np
from support.interpreter_models import images, net_model, net_signature, pair_model, pair_signature

from edge_runtime import EngineFailed
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.delegates import open_session

ROWS = (1, 3, 8, 1, 5, 3)


def spec(delegate, *signatures):
    return SessionSpec(subject="v/1", delegate=delegate, device=delegate, signatures=signatures)


def batches():
    """How far the GPU's answers are from the CPU's, for each number of rows, and what the session says of itself."""
    content, signature = net_model(), net_signature()
    gpu, cpu = (open_session(spec(delegate, signature), content) for delegate in ("gpu", "cpu"))
    found = []
    for count in ROWS:
        inputs = {"image": images(count, seed=count)}
        first, second = (one.run("serving_default", inputs)["scores"] for one in (gpu, cpu))
        found.append((list(first.shape), float(np.abs(first - second).max()), float(np.abs(second).max())))
    shown = repr(gpu)
    gpu.close()
    return {"rows": found, "repr": shown}


def signatures():
    """What each of two signatures answers to 3 and 5."""
    both = (pair_signature("add"), pair_signature("mul"))
    session = open_session(spec("gpu", *both), pair_model(kinds=("ADD", "MUL")))
    inputs = {"a": np.full((1, 4), 3, np.float32), "b": np.full((1, 4), 5, np.float32)}
    return [session.run(name, inputs)["c"].tolist() for name in ("add", "mul", "add")]


def outlives():
    """Whether an answer stays as it was when the session runs again."""
    session = open_session(spec("gpu", net_signature()), net_model())
    first = session.run("serving_default", {"image": images(1, seed=1)})["scores"]
    before = first.copy()
    session.run("serving_default", {"image": images(1, seed=2)})
    return bool((first == before).all())


def refused():
    """What is said of a file that the GPU can't run: it knows no int64."""
    try:
        open_session(spec("gpu", pair_signature(dtype="int64")), pair_model("int64"))
    except EngineFailed as error:
        return str(error)
    return None


def main():
    found = {each.__name__: each() for each in (batches, signatures, outlives, refused)}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
