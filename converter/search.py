"""The mixed search: which layers to leave in float, so that the rest can be int8 within the budget.

Greedy from the worst layer. First the set grows fast, 1, 2, 4, 8... layers, until the budget fits; then the fewest of
the worst layers that still fit are found by halving; then layers are given back, in blocks and one by one, the least
bad first. `next_candidate` decides and is pure; `search` acts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from converter.errors import ConverterError
from converter.findings import LayerError

FloatLayers = frozenset[str]

Ending = Literal["smallest", "time", "nothing_fits"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of float layers that was tried.

    Attributes:
        float_layers: The set.
        size_bytes: Of its file; 0 where there is none.
        loss_points: What it loses, of the output that loses most; infinite where there is none.
        error: Why it could not be made or measured; empty where it was.
        made: Whatever the caller wants to find again: the file, its findings.
    """

    float_layers: FloatLayers
    size_bytes: int = 0
    loss_points: float = float("inf")
    error: str = ""
    made: Any = None


@dataclass(frozen=True, kw_only=True)
class SearchStep:
    """How far a search is.

    Attributes:
        trial: The one that has just ended.
        fits: Whether it is within the budget.
        best: The smallest so far that is; None where there is none yet.
        trials: How many have ended.
        elapsed_s: Since the search began.
    """

    trial: Trial
    fits: bool
    best: Trial | None
    trials: int
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        best: The smallest that fits; None where nothing does.
        closest: The one that lost least; None where every trial failed, or there was no time for any.
        trials: All of them, in order.
        ending: `smallest`: nothing is left to try. `time`: the time was up. `nothing_fits`: not even with all layers
            in float, or every trial failed.
    """

    best: Trial | None
    closest: Trial | None
    trials: tuple[Trial, ...]
    ending: Ending


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """All that the next candidate depends on.

    Attributes:
        layers: By name, the worst first.
        tried: By set, whether it fits. A set that could not be made does not.
    """

    layers: tuple[str, ...]
    tried: dict[FloatLayers, bool]


def next_candidate(state: SearchState) -> FloatLayers | None:
    """The set to try next; None once the search is over."""
    candidate, fitting = _grow(state)
    if candidate is not None or fitting == 0:
        return candidate
    candidate, fitting = _halve(state, fitting)
    if candidate is not None:
        return candidate
    return _give_back(state, fitting)


def _grow(state: SearchState) -> tuple[FloatLayers | None, int]:
    """The next longer prefix; or none, and the length of the one that fits, 0 if none does."""
    count = 1
    while state.layers:
        count = min(count, len(state.layers))
        prefix = frozenset(state.layers[:count])
        if prefix not in state.tried:
            return prefix, 0
        if state.tried[prefix]:
            return None, count
        if count == len(state.layers):
            break
        count *= 2
    return None, 0


def _halve(state: SearchState, fitting: int) -> tuple[FloatLayers | None, int]:
    """The prefix in the middle of what is still open; or none, and the length of the shortest that fits."""
    failing = _largest_power_below(fitting)  # What was tried before it, and did not fit.
    while fitting - failing > 1:
        middle = (failing + fitting) // 2
        prefix = frozenset(state.layers[:middle])
        if prefix not in state.tried:
            return prefix, 0
        if state.tried[prefix]:
            fitting = middle
        else:
            failing = middle
    return None, fitting


def _largest_power_below(count: int) -> int:
    """The largest power of two below `count`, 0 for 1."""
    return 1 << ((count - 1).bit_length() - 1) if count > 1 else 0


def _give_back(state: SearchState, fitting: int) -> FloatLayers | None:
    """The shortest prefix that fits with one more block of layers in int8; blocks halve down to single layers."""
    kept = list(state.layers[:fitting])
    # The last layer is not offered by itself: without it this was tried, and did not fit.
    block = max(1, (len(kept) - 1) // 2)
    while len(kept) > 1:
        stop = len(kept) - 1
        while stop > 0:
            start = max(0, stop - block)
            candidate = frozenset(kept[:start] + kept[stop:])
            if candidate not in state.tried:
                return candidate
            if state.tried[candidate]:
                del kept[start:stop]
            stop = start
        if block == 1:
            return None
        block //= 2
    return None


def search(  # noqa: PLR0917  as the pipeline calls it, in the order of a sentence
    errors: Sequence[LayerError],
    make_and_measure: Callable[[FloatLayers], Trial],
    fits: Callable[[Trial], bool],
    time_limit_s: float,
    clock: Callable[[], float],
    report: Callable[[SearchStep], None],
) -> SearchOutcome:
    """Tries sets of float layers until nothing smaller is left to try or the time is up.

    Args:
        errors: The layers, the worst first; see `sensitivity.layer_errors`.
        make_and_measure: Makes a variant with these layers in float and measures it. A ConverterError that it raises,
            a crash of its process say, is a trial that does not fit, and the search goes on.
        fits: Whether a trial that did not fail is within the budget.
        time_limit_s: No trial begins after this many seconds; the one that runs then is waited for.
        clock: Monotonic seconds.
        report: Called after each trial.
    """
    began_s = clock()
    # A name can come twice, from two signatures that share layers.
    state = SearchState(layers=tuple(dict.fromkeys(error.name for error in errors)), tried={})
    trials: list[Trial] = []
    fitting: list[Trial] = []
    while (candidate := next_candidate(state)) is not None:
        if clock() - began_s >= time_limit_s:
            return _outcome(trials, fitting, "time")
        try:
            trial = make_and_measure(candidate)
        except ConverterError as error:
            trial = Trial(float_layers=candidate, error=str(error))
        good = not trial.error and fits(trial)
        state.tried[candidate] = good
        trials.append(trial)
        if good:
            fitting.append(trial)
        report(SearchStep(trial=trial, fits=good, best=_best(fitting), trials=len(trials), elapsed_s=clock() - began_s))
    return _outcome(trials, fitting, "smallest" if fitting else "nothing_fits")


def _outcome(trials: Sequence[Trial], fitting: Sequence[Trial], ending: Ending) -> SearchOutcome:
    measured = [one for one in trials if not one.error]
    closest = min(measured, key=lambda one: (one.loss_points, *_cost(one)), default=None)
    return SearchOutcome(best=_best(fitting), closest=closest, trials=tuple(trials), ending=ending)


def _best(fitting: Sequence[Trial]) -> Trial | None:
    return min(fitting, key=_cost, default=None)


def _cost(trial: Trial) -> tuple[int, int, list[str]]:
    """What is to be small: the file, then the set; the names settle the rest, so that the order of trials does not."""
    return trial.size_bytes, len(trial.float_layers), sorted(trial.float_layers)
