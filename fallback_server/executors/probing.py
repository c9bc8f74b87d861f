"""What is tried of a loaded version, whatever runs it: inputs that are made up, and whether rows mix."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fallback_server.executors.base import VARIABLE, Array, Signature

_log = logging.getLogger(__name__)

_MAX_WARM_UP_BYTES = 2**28
"""Inputs larger than this are not made up: the first request may take longer then."""

_ROUNDING = 0.01
"""Relative: above what float16 and reordered sums differ by, far below what a foreign row of ones changes."""

_SIZES = (3, 16, 64)
"""What variable sizes are tried as: many a model refuses the small ones, and few all of these."""

_STRINGS = (b"a b", b"", b"7")

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def mixes_rows(run: Run, zero: Mapping[str, Array]) -> bool:
    """Whether rows that differ are answered otherwise together than alone.

    A variable first dimension need be no batch. It may be a time axis, or the model may sort, reverse, sum up or
    normalize over it; merged requests would then get wrong answers, and nobody would know. False for models that answer
    the same row differently each time: there is nothing to compare.

    Args:
        run: Runs the signature.
        zero: One row for each input, such as `made_up` makes it; of its dtypes and sizes others are drawn.

    Raises:
        Exception: what `run` raises of all that is tried.
    """
    one = {key: _ones(array) for key, array in zero.items()}
    drawn = {key: _drawn(array) for key, array in zero.items()}
    try:
        # In no other order are these the same: neither sorted, nor reversed, nor moved on.
        return _mixes(run, (drawn, zero, one, zero))
    except Exception:  # noqa: BLE001  a model may well refuse values that are drawn, and not zeros and ones
        return _mixes(run, (zero, one, zero, zero))


def tried(run: Run, signature: Signature) -> Signature:
    """Runs a signature on what can be made up; where its rows mix, or nobody knows, it says so, and the log does.

    Args:
        run: Runs the signature; may raise.
        signature: Before the trial.
    """
    if not signature.batches:
        run_once(run, signature)
        return signature
    keeps = keeps_rows(run, signature)
    return signature if keeps else apart(signature, mixes=None if keeps is None else True)


def apart(signature: Signature, *, mixes: bool | None) -> Signature:
    """A signature whose requests are not merged, which the log says.

    Args:
        signature: As it was.
        mixes: True where its rows were seen to mix; None where nobody knows.
    """
    _log.warning(
        "signature %r: its requests are not merged: %s",
        signature.name,
        "it ran on nothing that could be made up, so nobody knows whether it keeps rows apart"
        if mixes is None
        else "a row's answer depends on the rows beside it",
    )
    return dataclasses.replace(signature, mixes_rows=True)


def run_once(run: Run, signature: Signature) -> None:
    """Runs a signature on zeros, where they can be made, so that the first request pays for no set-up."""
    if (zeros := made_up(signature)) is not None:
        try:
            run(zeros)
        except Exception as error:  # noqa: BLE001  a model may well refuse zeros: requests will tell
            _log.info("signature %r did not run on zeros: %r", signature.name, error)


def keeps_rows(run: Run, signature: Signature) -> bool | None:
    """Whether a trial shows that each row's answer is the row's own; None where nothing could be tried.

    Variable sizes and strings are tried too, so this is for models that may do with them whatever they like: in a
    process that nobody else's requests depend on.

    Args:
        run: Runs the signature; may raise.
        signature: One with a batch axis.
    """
    tried = False
    varies = any(spec.variable_axes for spec in signature.inputs.values())
    for size in _SIZES if varies else _SIZES[:1]:
        row = made_up(signature, size=size, strings=True)
        if row is None:
            continue
        try:
            if mixes_rows(run, row):
                return False
        except Exception as error:  # noqa: BLE001  another size may do
            _log.info("signature %r did not run on what was made up: %r", signature.name, error)
            continue
        tried = True
    return True if tried else None


def made_up(signature: Signature, *, size: int | None = None, strings: bool = False) -> dict[str, Array] | None:
    """Inputs of zeros, one row each; None where none can be made.

    That is for very large shapes and unknown ranks, and unless it is asked for otherwise, for strings and unknown sizes
    too: what no user would send may end the process instead of raising.

    Args:
        signature: What they are for.
        size: In place of those that vary, other than the rows' own.
        strings: Whether they may be among the inputs; empty ones.
    """
    zeros: dict[str, Array] = {}
    for name, spec in signature.inputs.items():
        if spec.shape is None or (spec.dtype.kind == "O" and not strings):
            return None
        shape = (1, *spec.shape[1:]) if spec.has_batch_axis else spec.shape
        if size is not None:
            shape = tuple(size if each == VARIABLE else each for each in shape)
        if VARIABLE in shape or int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize > _MAX_WARM_UP_BYTES:
            return None
        zeros[name] = np.full(shape, b"", object) if spec.dtype.kind == "O" else np.zeros(shape, dtype=spec.dtype)
    return zeros


def _mixes(run: Run, rows: Sequence[Mapping[str, Array]]) -> bool:
    """Whether rows are answered otherwise together than each alone; the first of them is run twice alone."""
    together = run({key: np.concatenate([row[key] for row in rows]) for key in rows[0]})
    alone = [run(row) for row in rows]
    again = run(rows[0])
    if not all(_alike(alone[0][key], again[key]) for key in together):
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


def _ones(array: Array) -> Array:
    return np.full(array.shape, b"1", object) if array.dtype.kind == "O" else np.ones_like(array)


def _drawn(array: Array) -> Array:
    """Values that are neither zeros nor ones alone: always the same ones, and such as most models take.

    Whole numbers may be places in a table, and so are small; those of one byte are mostly pictures.
    """
    random = np.random.default_rng(0)
    kind = array.dtype.kind
    if kind == "O":
        return np.resize(np.array(_STRINGS, object), array.shape)
    if kind == "b":
        return np.resize(np.array([True, False]), array.shape)
    if kind in "iu" and array.dtype.itemsize == 1:
        bounds = np.iinfo(array.dtype.name)
        return random.integers(bounds.min, bounds.max, array.shape, array.dtype, endpoint=True)
    if kind in "iu":
        return np.resize(np.array([2, 0, 3, 1], array.dtype), array.shape)
    return random.random(array.shape).astype(array.dtype)
