"""Holds the forms of a version against each other: what they answer, and how long they take."""

from __future__ import annotations

import contextlib
import itertools
import logging
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from fallback_server.core.errors import ExecutionFailed, LoadFailed, VersionNotReady
from fallback_server.executors.base import Array, Executor, Signature
from fallback_server.executors.choice import Measured, Tolerance, difference, says_nothing, spreads, unlike
from fallback_server.executors.loss import HeldLoss
from fallback_server.executors.probing import made_up
from fallback_server.executors.registry import OnGone
from fallback_server.warmup import MAX_BYTES, recorded

_log = logging.getLogger(__name__)

TOLERANCE = Tolerance()
"""What two forms of a version must agree within."""

MAX_COMPARED = 16
"""Recorded requests of each signature that forms are compared on."""

KEPT_BYTES = 2**28
"""Of the answers to compare; requests beyond are left out."""

MAX_PLACES = 1024
"""Whole numbers that stand for places in a table are looked for up to here; so are sizes, which must not be huge."""

_PLACES = (2, 8, 32, 128, 512, MAX_PLACES)
_CLOSE = 16
"""How near the number of places is found: within a sixteenth of it."""

_MADE_UP_ROWS = (1, 3, 16)
_MIN_RUNS, _MAX_RUNS = 5, 25
_TIMED_S = 0.5
"""For both forms of one signature and size together; forms take turns, so that whatever else runs meets both."""

Inputs = Mapping[str, Array]


@runtime_checkable
class StandsFor(Protocol):
    """An executor that can speak as another form of the same version does."""

    def stands_for(self, methods: Mapping[str, str], signature_defs: bytes) -> None:
        """Takes the words of the other form: methods by signature name, and all signatures serialized."""
        ...


class Candidate:
    """One form of a version while it is being chosen: its loss counts once it serves.

    Attributes:
        kind: What runs it.
        executor: Once it is loaded.
        loss: Told of the end of its process.
        refusal: Why it may not serve; empty while nothing speaks against it.
        files_refused: Whether that is its files' fault.
        median_s: See `Measured`.
    """

    def __init__(self, kind: str, on_lost: OnGone) -> None:
        self.kind = kind
        self.executor: Executor | None = None
        self.refusal = ""
        self.files_refused = False
        self.median_s: dict[tuple[str, int], float] = {}
        self.loss = HeldLoss(on_lost)

    def measured(self) -> Measured:
        """What is known of it."""
        lost = self.loss.how
        refusal = self.refusal or ("" if lost is None else f"its process ended ({lost})")
        return Measured(kind=self.kind, median_s=self.median_s, refusal=refusal)

    @property
    def loaded(self) -> Executor:
        """The executor, which there must be."""
        assert self.executor is not None
        return self.executor

    def timed_s(self, name: str, inputs: Inputs) -> float:
        """How long a run takes."""
        run = self.loaded.run
        begin_s = time.perf_counter()
        run(name, inputs)
        return time.perf_counter() - begin_s

    def close(self) -> None:
        """Closes what was loaded."""
        if self.executor is not None:
            with contextlib.suppress(LoadFailed):
                self.executor.close()


def compare(first: Candidate, second: Candidate, path: Path, *, largest_rows: int) -> int:
    """Holds a second form against the first, and times both where they agree.

    Args:
        first: Loaded; what it answers is right.
        second: Loaded; gets a refusal where it may not stand for the first, and its words where it may.
        path: The version's folder, for the requests that were recorded with it.
        largest_rows: What a batch may have.

    Returns:
        How many requests they agreed on.

    Raises:
        LoadFailed: the first failed at a request, or its process ended.
    """
    one, other = first.loaded, second.loaded
    if fault := unlike(one.signatures, other.signatures):
        second.refusal = f"another interface: {fault}"
        return 0
    compared = 0
    samples: dict[str, Inputs] = {}
    for name, signature in one.signatures.items():
        alike, second.refusal = _agree(one, other, signature, path)
        compared += len(alike)
        if second.refusal:
            return compared
        samples[name] = alike[0]
    if isinstance(other, StandsFor):
        methods = {name: signature.method for name, signature in one.signatures.items()}
        other.stands_for(methods, one.signature_defs)
    for name, sample in samples.items():
        _time(first, second, name, sample, largest_rows)
    return compared


def _agree(one: Executor, other: Executor, signature: Signature, path: Path) -> tuple[list[Inputs], str]:
    """The requests that both answer alike, and what speaks against the second."""
    name = signature.name
    recorded_ones = recorded(one, path, name, most=MAX_COMPARED)
    zeros = made_up(signature)
    made = iter(()) if zeros is None else made_up_requests(signature, zeros, _places(one, name, zeros))
    asked: list[Inputs] = []
    expected: list[Inputs] = []
    given: list[Inputs] = []
    size_bytes = 0
    for inputs in itertools.chain(recorded_ones, made):
        if size_bytes > KEPT_BYTES:
            break
        if (answer := _answer(one, name, inputs)) is None:
            continue
        try:
            given.append(other.run(name, inputs))
        except Exception as error:  # noqa: BLE001  it may not serve
            return asked, f"another answer of signature {name!r}: {' '.join(str(error).split())}"
        asked.append(inputs)
        expected.append(answer)
        size_bytes += 2 * sum(value.nbytes for value in answer.values())
    spread = spreads(expected)
    for index, (answer, rival) in enumerate(zip(expected, given, strict=True)):
        if fault := difference(answer, rival, TOLERANCE, spread):
            return asked[:index], f"another answer of signature {name!r}: {fault}"
    if not asked:
        return [], f"nothing to compare it on: signature {name!r} has no recorded request, and none can be made up"
    if fault := says_nothing(expected, made_up=not recorded_ones, rows=signature.batches):
        return asked, f"nothing to compare it on: signature {name!r}: {fault}"
    return asked, ""


def _answer(executor: Executor, name: str, inputs: Inputs) -> Inputs | None:
    """What the first form answers; None where it refuses, since nobody would send that.

    Raises:
        LoadFailed: its process ended.
    """
    try:
        return executor.run(name, inputs)
    except (ExecutionFailed, VersionNotReady) as error:
        raise LoadFailed(f"a request to compare its forms on failed: {error}") from error
    except Exception as error:  # noqa: BLE001  told above
        _log.debug("signature %r did not run on a made-up request: %s", name, error)
        return None


def _places(executor: Executor, name: str, zeros: Inputs) -> dict[str, int]:
    """How many whole numbers, from 0 on, the first form takes in each input of such: a table has so many places.

    Found by trying: it refuses what lies beyond, and so would the other form; which is asked no such thing.
    """
    found: dict[str, int] = {}
    for key, value in zeros.items():
        if value.dtype.kind not in "iu" or value.dtype.itemsize == 1:
            continue

        def takes(places: int, key: str = key, value: Array = value) -> bool:
            return _answer(executor, name, {**zeros, key: np.full_like(value, places - 1)}) is not None

        least, most = 1, MAX_PLACES + 1
        for places in _PLACES:
            if not takes(places):
                most = places
                break
            least = places
        while most - least > max(1, least // _CLOSE) and most <= MAX_PLACES:
            middle = (least + most) // 2
            least, most = (middle, most) if takes(middle) else (least, middle)
        found[key] = least
    return found


def _time(first: Candidate, second: Candidate, name: str, sample: Inputs, largest_rows: int) -> None:
    """Times both forms in turns on one row, and on as many as a batch may have."""
    batches = first.loaded.signatures[name].batches
    row_bytes = sum(value.nbytes for value in sample.values())
    for rows in sorted({1, largest_rows} if batches else {1}):
        if rows > 1 and rows * row_bytes > MAX_BYTES:
            continue
        inputs = {key: _resized(value, rows) for key, value in sample.items()} if batches else sample
        took_s: list[tuple[float, float]] = []
        end_s = time.perf_counter() + _TIMED_S
        while len(took_s) < _MIN_RUNS or (len(took_s) < _MAX_RUNS and time.perf_counter() < end_s):
            took_s.append((first.timed_s(name, inputs), second.timed_s(name, inputs)))
        for candidate, values in zip((first, second), zip(*took_s[1:], strict=True), strict=True):
            candidate.median_s[name, rows] = statistics.median(values)


def made_up_requests(signature: Signature, zeros: Inputs, places: Mapping[str, int]) -> Iterator[Inputs]:
    """What is run where nothing was recorded: zeros, and values that differ from row to row, always the same ones.

    Args:
        signature: What they are for.
        zeros: As `probing.made_up` makes them.
        places: Of each input of whole numbers, how many may be drawn, from 0 on; bytes may be anything, as in images.
    """
    yield dict(zeros)
    random = np.random.default_rng(0)
    row_bytes = sum(value.nbytes for value in zeros.values())
    for rows in _MADE_UP_ROWS:
        if rows > 1 and rows * row_bytes > MAX_BYTES:
            continue
        drawn: dict[str, Array] = {}
        for name, value in zeros.items():
            shape = (rows, *value.shape[1:]) if signature.batches else value.shape
            kind = value.dtype.kind
            if kind in "fc":
                drawn[name] = random.normal(size=shape).astype(value.dtype)
            elif kind in "iu" and value.dtype.itemsize == 1:
                bounds = np.iinfo(value.dtype.name)
                drawn[name] = random.integers(bounds.min, bounds.max, shape, endpoint=True).astype(value.dtype)
            else:
                # Each of them, as far as there is room: one place alone may be another in the other form.
                drawn[name] = np.resize(random.permutation(places.get(name, 2)), shape).astype(value.dtype)
        yield drawn


def _resized(value: Array, rows: int) -> Array:
    return np.ascontiguousarray(np.take(value, np.arange(rows) % len(value), axis=0))
