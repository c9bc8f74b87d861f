"""Which of a version's forms serves: the fastest of those that agree with the first. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fallback_server.executors.base import VARIABLE, Array, Signature, TensorSpec

_NAMES = {"tensorflow": "the SavedModel", "litert": "LiteRT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far two answers may be apart: `|a - b| <= atol * spread + rtol * |b|` for floats, else not at all.

    Attributes:
        rtol: Of the value.
        atol: Of the output's spread: how far apart its values lie over all that the forms are compared on.
    """

    rtol: float = 1e-3
    atol: float = 1e-4

    def __str__(self) -> str:
        return f"rtol {self.rtol:g}, atol {self.atol:g} of each output's spread"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was found out of one form.

    Attributes:
        kind: What runs it.
        median_s: (signature, rows) -> the median time of a run.
        refusal: Why it can't serve: it could not be loaded, or differs from the first; empty where it can.
    """

    kind: str
    median_s: Mapping[tuple[str, int], float] = field(default_factory=dict)
    refusal: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What serves a version, and why.

    Attributes:
        kind: What runs it.
        why: One line, with the figures; empty where there was nothing to choose.
    """

    kind: str
    why: str = ""


def choose(measured: Sequence[Measured], tolerance: Tolerance, *, compared: int) -> Choice:
    """The fastest form of those that nothing speaks against; the first of them where none is faster.

    Speed is told by the geometric mean of the times' ratios over all that was timed of both.

    Args:
        measured: Of all forms, the one that the others were compared with first; at least one has no refusal.
        tolerance: What they agree within.
        compared: How many requests they were compared on.
    """
    sound = [each for each in measured if not each.refusal]
    best = sound[0]
    for each in sound[1:]:
        if _ratio(each, best) < 1:
            best = each
    told = [f"{_name(best.kind)} serves"]
    told += [f"{_name(each.kind)} does not: {each.refusal}" for each in measured if each.refusal]
    if len(sound) > 1:
        shared = sorted(set.intersection(*(set(each.median_s) for each in sound)))
        figures = ", ".join(f"{_name(each.kind)} {_times(each, shared)}" for each in (best, *_others(sound, best)))
        told.append(f"median times: {figures}; alike within {tolerance} on {compared} requests")
    return Choice(kind=best.kind, why="; ".join(told))


def spreads(answers: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """How far apart the finite values of each output of floats lie, over all answers; 0 where there are none."""
    found: dict[str, float] = {}
    for name in answers[0] if answers else ():
        values = [
            array[np.isfinite(array)] for array in (answer[name] for answer in answers) if array.dtype.kind in "fc"
        ]
        parts = [part.astype(np.complex128).view(np.float64) for part in values if part.size]
        found[name] = max(map(np.max, parts)) - min(map(np.min, parts)) if parts else 0.0
    return found


def difference(
    one: Mapping[str, Array], other: Mapping[str, Array], tolerance: Tolerance, spread: Mapping[str, float]
) -> str:
    """In what two answers differ by more than the tolerance; empty where they don't.

    Args:
        one: Outputs by name.
        other: The same of another form.
        tolerance: How far they may be apart.
        spread: See `spreads`.
    """
    if one.keys() != other.keys():
        return f"outputs {sorted(one)} and {sorted(other)}"
    for name, a in one.items():
        b = other[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"output {name!r} is {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        if a.dtype.kind not in "fc":
            if not np.array_equal(a, b):
                return f"output {name!r} differs"
        elif not np.allclose(a, b, rtol=tolerance.rtol, atol=tolerance.atol * spread[name], equal_nan=True):
            return f"output {name!r} differs by up to {_farthest(a, b):.3g}"
    return ""


def says_nothing(answers: Sequence[Mapping[str, Array]], *, made_up: bool, rows: bool) -> str:
    """Why it says nothing that two forms have given these same answers; empty where it does say something.

    What is no number anywhere may be anything. And what is the same whatever is asked may be so for no request that
    anybody sends: an output of floats must vary over made-up requests, and any output must.

    Args:
        answers: At least one.
        made_up: Whether all requests were.
        rows: Whether an answer has several, along the first axis.
    """
    vary = False
    for name in answers[0]:
        arrays = [answer[name] for answer in answers]
        floats = arrays[0].dtype.kind in "fc"
        if floats and not any(np.isfinite(array).any() for array in arrays):
            return f"output {name!r} is no finite number in any answer"
        varies = len({key for array in arrays for key in _keys(array, rows=rows)}) > 1
        if floats and made_up and not varies:
            return f"output {name!r} is the same for all made-up requests"
        vary |= varies
    return "" if vary or not made_up else "all outputs are the same for all made-up requests"


def _keys(array: Array, *, rows: bool) -> Iterator[int]:
    for part in array if rows and array.ndim else (array,):
        yield hash(tuple(np.ravel(part).tolist()) if array.dtype.kind == "O" else np.asarray(part).tobytes())


def unlike(one: Mapping[str, Signature], other: Mapping[str, Signature]) -> str:
    """In what the signatures of two forms differ, so that a client would notice; empty where they don't.

    Inputs must be the same in all. What an output's size is need be known of one form alone.
    """
    if one.keys() != other.keys():
        return f"signatures {sorted(one)} and {sorted(other)}"
    for name, signature in one.items():
        rival = other[name]
        for kind, ours, theirs in (
            ("input", signature.inputs, rival.inputs),
            ("output", signature.outputs, rival.outputs),
        ):
            if ours.keys() != theirs.keys():
                return f"signature {name!r}: {kind}s {sorted(ours)} and {sorted(theirs)}"
            for key, spec in ours.items():
                same = spec == theirs[key] if kind == "input" else _may_be_one(spec, theirs[key])
                if not same:
                    return f"signature {name!r}: {kind} {key!r} is {spec} and {theirs[key]}"
        if signature.batches and not rival.batches:
            return f"signature {name!r}: its requests could not be merged"
    return ""


def _may_be_one(one: TensorSpec, other: TensorSpec) -> bool:
    if one.dtype != other.dtype:
        return False
    if one.shape is None or other.shape is None:
        return True
    return len(one.shape) == len(other.shape) and all(
        VARIABLE in (a, b) or a == b for a, b in zip(one.shape, other.shape, strict=True)
    )


def _ratio(one: Measured, other: Measured) -> float:
    """How long one takes over how long the other takes; 1 where nothing was timed of both."""
    shared = one.median_s.keys() & other.median_s.keys()
    if not shared:
        return 1.0
    logs = [math.log(max(one.median_s[key], 1e-9) / max(other.median_s[key], 1e-9)) for key in shared]
    return math.exp(sum(logs) / len(logs))


def _others(sound: Sequence[Measured], best: Measured) -> list[Measured]:
    return [each for each in sound if each is not best]


def _times(measured: Measured, keys: Sequence[tuple[str, int]]) -> str:
    several = len({signature for signature, _ in keys}) > 1
    return " and ".join(
        f"{measured.median_s[key] * 1e3:.3g} ms for {key[1]} row{'' if key[1] == 1 else 's'}"
        + (f" of {key[0]}" if several else "")
        for key in keys
    )


def _farthest(a: Array, b: Array) -> float:
    with np.errstate(all="ignore"):
        return float(np.nanmax(np.abs(a.astype(np.complex128) - b.astype(np.complex128)), initial=0.0))


def _name(kind: str) -> str:
    return _NAMES.get(kind, kind)
