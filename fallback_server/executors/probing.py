"""What is tried of a loaded version, whatever runs it: inputs that are made up, and whether rows mix."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fallback_server.executors.base import VARIABLE, Array, Signature

_MAX_WARM_UP_BYTES = 2**28
"""Inputs larger than this are not made up: the first request may take longer then."""

_ROUNDING = 0.01
"""Relative: above what float16 and reordered sums differ by, far below what a foreign row of ones changes."""

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def mixes_rows(run: Run, zero: Mapping[str, Array]) -> bool:
    """Whether a row of ones and one of zeros are answered otherwise together than alone.

    A variable first dimension need be no batch. It may be a time axis, or the model may sort, sum up or normalize over
    it; merged requests would then get wrong answers, and nobody would know. False for models that answer the same row
    differently each time: there is nothing to compare.

    Args:
        run: Runs the signature.
        zero: One row of zeros for each input.
    """
    one = {key: np.ones_like(array) for key, array in zero.items()}
    rows = (one, zero, one)
    together = run({key: np.concatenate([row[key] for row in rows]) for key in zero})
    alone = [run(row) for row in rows]
    if not all(_alike(alone[0][key], alone[2][key]) for key in together):
        return False
    if any(array.shape[:1] != (1,) for answer in alone for array in answer.values()):
        return True
    return not all(_alike(np.concatenate([each[key] for each in alone]), together[key]) for key in together)


def _alike(one: Array, other: Array) -> bool:
    """Whether two outputs are the same but for rounding, which may differ with the number of rows."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    scale = float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one)))
    return bool(np.allclose(one, other, rtol=_ROUNDING, atol=_ROUNDING * scale, equal_nan=True))


def made_up(signature: Signature) -> dict[str, Array] | None:
    """Inputs of zeros, one row each; None where none can be made.

    That is for strings, very large shapes, and unknown ranks or sizes: a size that no user would send may end the
    process instead of raising.
    """
    zeros: dict[str, Array] = {}
    for name, spec in signature.inputs.items():
        if spec.shape is None or spec.dtype.kind == "O":
            return None
        shape = (1, *spec.shape[1:]) if spec.has_batch_axis else spec.shape
        if VARIABLE in shape or int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize > _MAX_WARM_UP_BYTES:
            return None
        zeros[name] = np.zeros(shape, dtype=spec.dtype)
    return zeros
