"""What a result says in one sentence, and what its variants are compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from converter.artifact import Cascade
from converter.config import Budget
from converter.errors import OptionInvalid
from converter.figures import factor_text, metric_heading, points_text, size_text
from converter.findings import Findings
from converter.result import PackageResult, VariantResult
from devices import load_profiles

BASELINE = "float32"
DEFAULT = "default"

_SAME = 0.05
"""Sizes and times within five percent of each other are the same to whoever decides, and would read `1.0x`."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a variant lost in the output where it lost most.

    Attributes:
        points: In percentage points of the output's primary metric; below 0 where it gained.
        output: Which one.
        primary: The metric.
        reference_points: As of `findings.OutputFindings`.
    """

    points: float
    output: str
    primary: str
    reference_points: float


def loss_of(findings: Findings, variant: str) -> Loss | None:
    """The worst over the outputs; None where none was measured on evaluation data."""
    found = findings.variants.get(variant)
    losses = [
        Loss(points=one.loss_points, output=name, primary=one.primary, reference_points=one.reference_points)
        for name, one in sorted(found.outputs.items() if found else ())
        if one.loss_points is not None
    ]
    return max(losses, key=lambda loss: loss.points, default=None)


def within(budget: Budget, findings: Findings, variant: str) -> bool | None:
    """Whether every measured output of the variant is within the budget; None where none was measured."""
    found = findings.variants.get(variant)
    inside = [
        budget.allows(one.loss_points, one.reference_points)
        for one in (found.outputs.values() if found else ())
        if one.loss_points is not None
    ]
    return all(inside) if inside else None


def baseline(result: PackageResult) -> VariantResult | None:
    """The float32 variant, where it was made: what sizes and times are compared with."""
    return next((one for one in result.variants if one.name == BASELINE and one.status == "ok"), None)


def size_factor(result: PackageResult, variant: VariantResult) -> float | None:
    """How many times smaller than float32 it is; None where one of the two has no size."""
    whole = baseline(result)
    if whole is None or not whole.size_bytes or not variant.size_bytes:
        return None
    return whole.size_bytes / variant.size_bytes


def speed_factor(result: PackageResult, variant: VariantResult) -> float | None:
    """How many times faster than float32 it is on the host, with as many threads; None where that was not measured."""
    whole = baseline(result)
    if whole is None:
        return None
    theirs = {one.threads: one.median_us for one in whole.latency}
    for one in sorted(variant.latency, key=lambda entry: entry.threads):
        if one.threads in theirs and one.median_us > 0:
            return theirs[one.threads] / one.median_us
    return None


def median_us(variant: VariantResult) -> float | None:
    """Its median on the host with the fewest threads, in microseconds; None where it was not measured."""
    return min(variant.latency, key=lambda one: one.threads).median_us if variant.latency else None


def dominated(points: Mapping[str, Sequence[float]]) -> set[str]:
    """Those beside which another is nowhere worse and somewhere better. What is not in the set is the Pareto front.

    Args:
        points: By name, as many numbers each; less is better.
    """
    return {
        name
        for name, mine in points.items()
        if any(
            all(a <= b for a, b in zip(theirs, mine, strict=True)) and tuple(theirs) != tuple(mine)
            for theirs in points.values()
        )
    }


def front(result: PackageResult, findings: Findings) -> set[str]:
    """The variants that no other one beats: in size, in loss and, where all were timed, in latency."""
    shown = {one.name: one for one in result.variants if one.status == "ok" and one.size_bytes}
    losses = {name: loss.points for name in shown if (loss := loss_of(findings, name)) is not None}
    times = {name: median_us(shown[name]) for name in losses}
    timed = all(value is not None for value in times.values())
    points = {
        name: (float(shown[name].size_bytes or 0), points, (times[name] or 0.0) if timed else 0.0)
        for name, points in losses.items()
    }
    return set(points) - dominated(points)


def cascade_text(found: Cascade) -> str:
    """What the threshold means, in a sentence."""
    if found.escalation_rate == 0.0:
        return f"none, it is as accurate by itself ({found.accuracy:.2%})"
    return (
        f"{found.escalation_rate:.2%} of them, those with a confidence below {found.threshold:.4g} in "
        f"{found.output!r}; then {found.accuracy:.2%} are right, and {found.source_accuracy:.2%} by the server alone"
    )


def targets_of(result: PackageResult, variant: str) -> list[str]:
    """The targets that it was chosen for: the default first, then by name."""
    return sorted((target for target, name in result.chosen.items() if name == variant), key=_default_first)


def closest(result: PackageResult, findings: Findings, budget: Budget | None) -> str | None:
    """The variant that lost least of those beyond the budget, or of all; None where nothing was measured."""
    losses = {
        one.name: loss.points
        for one in result.variants
        if one.status == "ok" and (loss := loss_of(findings, one.name)) is not None
    }
    beyond = [name for name in losses if budget and within(budget, findings, name) is False]
    return min(beyond or losses, key=lambda name: (losses[name], name), default=None)


def headline(
    result: PackageResult, findings: Findings, *, budget: Budget | None = None, targets: Sequence[str] = ()
) -> str:
    """The decision: what was chosen for whom, and what that costs; or that nothing was, and what came closest.

    Args:
        result: What became of each variant.
        findings: What was found out about them.
        budget: What a variant might lose, where the user said.
        targets: All targets that a variant was looked for, where some have none.
    """
    if not any(one.status == "ok" for one in result.variants):
        return "No variant could be made, so nothing was published."
    missing = [target for target in targets if target not in result.chosen]
    if missing or not result.chosen:
        return _nothing(result, findings, budget, missing)
    names = list(dict.fromkeys(result.chosen[target] for target in sorted(result.chosen, key=_default_first)))
    variants = {one.name: one for one in result.variants}
    said = [_choice(result, findings, variants[name]) for name in names if name in variants]
    return "; ".join(said) + "."


def _default_first(target: str) -> tuple[bool, str]:
    return target != DEFAULT, target


def _choice(result: PackageResult, findings: Findings, variant: VariantResult) -> str:
    others = [target for target in targets_of(result, variant.name) if target != DEFAULT]
    whom = f" for {joined(others)}" if others else " by default" if len(set(result.chosen.values())) > 1 else ""
    parts = [_size_words(result, variant), loss_words(loss_of(findings, variant.name))]
    if not others or not all(map(_is_accelerator, others)):
        parts.append(_speed_words(result, variant))
    return f"{variant.name}{whom}: {', '.join(part for part in parts if part)}"


def _is_accelerator(target: str) -> bool:
    """Whether it is one that a host's CPU says nothing about."""
    return any(one.name == target and one.kind == "accelerator" for one in load_profiles())


def _nothing(result: PackageResult, findings: Findings, budget: Budget | None, missing: Sequence[str]) -> str:
    whom = f" for {joined(missing)}" if missing else ""
    bound = f" within {budget}" if budget else ""
    name = closest(result, findings, budget)
    near = f" {name} came closest: {loss_words(loss_of(findings, name))}." if name else ""
    end = "" if result.package else " Nothing was published."
    return f"No variant is{bound or ' good enough'}{whom}.{near}{end}"


def _size_words(result: PackageResult, variant: VariantResult) -> str:
    factor = size_factor(result, variant)
    if factor is None or variant.name == BASELINE:
        return size_text(variant.size_bytes) if variant.size_bytes else ""
    return compared(factor, "smaller", "larger", "the same size")


def _speed_words(result: PackageResult, variant: VariantResult) -> str:
    factor = None if variant.name == BASELINE else speed_factor(result, variant)
    return "" if factor is None else f"{compared(factor, 'faster', 'slower', 'the same speed')} on this host"


def compared(factor: float, more: str, less: str, same: str) -> str:
    """`4.1x smaller`, `1.2x larger`, `the same size`: a factor above 1 is `more`."""
    if abs(factor - 1) <= _SAME:
        return same
    return f"{factor_text(factor)} {more}" if factor > 1 else f"{factor_text(1 / factor)} {less}"


def loss_words(loss: Loss | None) -> str:
    """`0.12 points less accurate`; for another metric than accuracy, `0.12 points of agreement lost`."""
    if loss is None:
        return "accuracy not measured"
    points, name = points_text(abs(loss.points)), metric_heading(loss.primary)
    if points == "0.00":
        return "no less accurate" if loss.primary == "accuracy" else f"no {name} lost"
    if loss.primary in ("relative_rmse", "sqnr_db"):
        return f"an error of {points} points ({name})"
    if loss.primary == "accuracy":
        return f"{points} points {'less' if loss.points > 0 else 'more'} accurate"
    return f"{points} points of {name} {'lost' if loss.points > 0 else 'gained'}"


def joined(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else list(names))


def said_budget(findings: Findings) -> Budget | None:
    """The budget that the findings tell in words; None where they tell none, or another program's."""
    words = findings.budget.split()
    try:
        return Budget(points=float(words[0]), relative="%" in words) if words else None
    except (ValueError, OptionInvalid):
        return None
