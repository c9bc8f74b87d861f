"""Which variant is the one to run on a target. Pure.

Nothing here measures: a candidate brings what was measured of it, and a budget says what that may be.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from converter.config import Budget, Optimize
from converter.findings import OutputFindings
from devices.profile import DeviceProfile

BASELINE = "float32"

EDGE_TPU = "edgetpu"

DEFAULT_BUDGET = Budget(points=1.0)
"""Where none was given: one percentage point is what is commonly given for a quarter of the size. Without labels, so
that the original's answer is kept in 99 of 100 samples."""

DEFAULT_ERROR_BUDGET = Budget(points=10.0)
"""Where none was given, of metrics that are an error in percent of a regression's spread or power: 20 dB."""

_ERROR_METRICS = ("relative_rmse", "sqnr_db")

SEARCH_MARGIN = 1.1
"""A mixed variant can't be smaller or faster than full int8; one that is within a tenth of that needs no search."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A variant that works.

    Attributes:
        name: Its name.
        size_bytes: The size of its file, or of all its segments.
        latency_us: One call's median on this host; None where it was not or can't be timed.
        outputs: What was measured of it, by output.
        full_int8: Whether an Edge TPU could take it.
        delegate: What runs it, as of `artifact.Variant`.
        compiled_from: The candidate whose compiled form it is, if it is one: it stands for what was measured.
    """

    name: str
    size_bytes: int
    latency_us: float | None = None
    outputs: Mapping[str, OutputFindings]
    full_int8: bool = False
    delegate: str = "cpu"
    compiled_from: str = ""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a target asks of a variant.

    Attributes:
        target: Its name.
        full_int8: Whether it is an Edge TPU, which takes nothing else, and its compiled form before that.
    """

    target: str
    full_int8: bool


def needs_of(profile: DeviceProfile) -> Needs:
    """A profile whose first delegate is an Edge TPU needs full int8; its `cpu` is for when that is gone."""
    return Needs(target=profile.name, full_int8=profile.delegates[0].partition(":")[0] == EDGE_TPU)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen for a target.

    Attributes:
        variant: Its name; None where nothing is within the budget, or nothing can run there.
        closest: The one that misses the budget by least, where nothing is within it.
        why: One sentence, for the report.
    """

    variant: str | None
    closest: str | None
    why: str


def choose(
    candidates: Sequence[Candidate], needs: Needs, budget: Budget | None, optimize: Optimize, *, measured: bool
) -> Choice:
    """The best candidate that the target can run and the budget allows.

    The best is the smallest, of equally small ones the fastest, or the other way round by `optimize`; what was not
    timed is slower than what was. On an Edge TPU what was compiled for it comes before all others. Of equals the
    first is taken.

    Where nothing was measured, no loss is known: float32 is chosen, or on an Edge TPU the best that it can run. Where
    no budget was given, `DEFAULT_BUDGET` is used, and where nothing is within it, float32 is chosen, or on an Edge
    TPU the one that comes closest.

    Args:
        candidates: The most faithful first.
        needs: What the target asks.
        budget: What a variant may lose in each output; None where none was given.
        optimize: What to go by.
        measured: Whether the losses are known, from evaluation data.
    """
    able = _able(candidates, needs)
    if not able:
        what = "an Edge TPU takes only full int8, and no such variant was made" if needs.full_int8 else "none was made"
        return Choice(variant=None, closest=None, why=f"no variant can run there: {what}")
    if not measured or not any(_losses(one) for one in able):
        return _unmeasured(able, needs, optimize)
    fitting = [one for one in able if _excess(one, budget) <= 0]
    if fitting:
        best = min(fitting, key=lambda one: _rank(one, needs, optimize))
        what = "smallest" if optimize == "size" else "fastest"
        return Choice(variant=best.name, closest=None, why=f"{best.name} is the {what} within {_allowed(budget)}")
    closest = min(able, key=lambda one: _excess(one, budget))
    why = f"nothing is within {_allowed(budget)}; {closest.name} comes closest: {_told(closest, budget)}"
    if budget is not None:
        return Choice(variant=None, closest=closest.name, why=why)
    baseline = next((one for one in able if one.name == BASELINE), closest)
    return Choice(variant=baseline.name, closest=closest.name, why=why)


def search_wanted(
    candidates: Sequence[Candidate], needs: Needs, budget: Budget | None, optimize: Optimize, *, measured: bool
) -> bool:
    """Whether a search for a mixed variant can pay: full int8 loses too much, and nothing else that fits is near it.

    Never without a budget or without a measurement, nor for an Edge TPU, which can't run a mixed variant.
    """
    able = _able(candidates, needs)
    whole = [one for one in able if one.full_int8]
    if budget is None or not measured or needs.full_int8 or not whole or not any(_losses(one) for one in whole):
        return False
    by_time = optimize == "latency" and all(one.latency_us is not None for one in able)

    def cost(one: Candidate) -> float:
        return float(one.latency_us if by_time and one.latency_us is not None else one.size_bytes)

    bound = SEARCH_MARGIN * min(cost(one) for one in whole)
    return not any(_excess(one, budget) <= 0 and cost(one) <= bound for one in able)


def _able(candidates: Sequence[Candidate], needs: Needs) -> list[Candidate]:
    """Those that the target can run, each with what was measured of it or of what it was compiled from."""
    known = {one.name: one for one in candidates}
    able = []
    for one in candidates:
        if one.delegate == "cpu" and (one.full_int8 or not needs.full_int8):
            able.append(one)
        elif one.delegate == EDGE_TPU and needs.full_int8:
            outputs = one.outputs
            if not outputs and one.compiled_from in known:
                outputs = known[one.compiled_from].outputs
            able.append(dataclasses.replace(one, outputs=outputs, full_int8=True))
    return able


def _unmeasured(able: Sequence[Candidate], needs: Needs, optimize: Optimize) -> Choice:
    if needs.full_int8:
        best = min(able, key=lambda one: _rank(one, needs, optimize))
        why = f"nothing was measured: {best.name} is what an Edge TPU can run, whatever it loses"
    else:
        best = next((one for one in able if one.name == BASELINE), able[0])
        why = f"nothing was measured: {best.name} is the most faithful"
    return Choice(variant=best.name, closest=None, why=why)


def _rank(one: Candidate, needs: Needs, optimize: Optimize) -> tuple[float, ...]:
    size, latency = float(one.size_bytes), math.inf if one.latency_us is None else one.latency_us
    compiled_first = 0.0 if needs.full_int8 and one.delegate == EDGE_TPU else 1.0
    return (compiled_first, *((size, latency) if optimize == "size" else (latency, size)))


def _losses(one: Candidate) -> dict[str, float]:
    return {name: found.loss_points for name, found in one.outputs.items() if found.loss_points is not None}


def _budget_for(found: OutputFindings, budget: Budget | None) -> Budget:
    if budget is not None:
        return budget
    return DEFAULT_ERROR_BUDGET if found.primary in _ERROR_METRICS else DEFAULT_BUDGET


def _excess(one: Candidate, budget: Budget | None) -> float:
    """By how many points its worst output misses the budget; 0 or less where all are within it.

    What was not measured of it at all can't be within it.
    """
    losses = _losses(one)
    if not losses:
        return math.inf
    excesses = []
    for name, loss in losses.items():
        found = one.outputs[name]
        bound = _budget_for(found, budget)
        over = loss - bound.in_points(found.reference_points)
        excesses.append(min(0.0, over) if bound.allows(loss, found.reference_points) else over)
    return max(excesses)


def _allowed(budget: Budget | None) -> str:
    return f"the budget of {budget}" if budget is not None else f"{DEFAULT_BUDGET.points:g} point"


def _told(one: Candidate, budget: Budget | None) -> str:
    """Which output loses how much."""
    losses = _losses(one)
    if not losses:
        return "nothing was measured of it"

    def over(name: str) -> float:
        found = one.outputs[name]
        return losses[name] - _budget_for(found, budget).in_points(found.reference_points)

    worst = max(sorted(losses), key=over)
    return f"it loses {losses[worst]:.3g} points of {one.outputs[worst].primary} in output {worst!r}"
