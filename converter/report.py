"""A package as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from converter.artifact import Latency
from converter.config import Budget
from converter.figures import in_order, metric_heading, metric_text, points_text, size_text, time_text
from converter.findings import Findings, VariantFindings
from converter.result import PackageResult, VariantResult
from converter.summary import cascade_text, said_budget, targets_of

__all__ = ["aligned", "size_text", "table"]


def table(result: PackageResult, findings: Findings | None = None, *, budget: Budget | None = None) -> str:
    """Lines for a person: one for the original, one for each variant and output, what is chosen, and the notes.

    Args:
        result: What became of each variant.
        findings: What was found out about them: the losses.
        budget: What they might lose, if not what the findings say; losses beyond it are marked.
    """
    findings = findings or Findings()
    budget = budget or said_budget(findings)
    lines = [f"{result.name} version {result.version}: {result.package or 'not published'}", ""]
    lines += [*aligned(_rows(result, findings, budget)), ""]
    after = (
        _measured(result),
        _budget(budget),
        *_timed(result),
        *_cascades(result),
        *map(_why, result.variants),
        *result.notes,
    )
    return "\n".join([*lines, *(line for line in after if line)]).rstrip()


def _rows(result: PackageResult, findings: Findings, budget: Budget | None) -> list[list[str]]:
    """The headings, then the cells; columns that would be empty are left out."""
    outputs = sorted({name for one in result.variants for name in one.metrics}) or [""]
    metrics = {f"metric {name}": name for name in in_order({name for found in _all_metrics(result) for name in found})}
    headings = {"variant": "variant", "size": "size", "output": "output"}
    headings |= {column: metric_heading(name) for column, name in metrics.items()}
    headings |= {"loss": "loss", "latency": "latency", "bench": "bench", "remark": ""}

    def cells(output: str, found: Mapping[str, float]) -> dict[str, str]:
        values = {column: metric_text(name, found.get(name)) for column, name in metrics.items()}
        return {"output": output if outputs[1:] else "", **values}

    originals = {output: result.source_metrics[output] for output in outputs if output in result.source_metrics}
    rows = [{"variant": "original", **cells(output, found)} for output, found in originals.items()]
    for variant in result.variants:
        for output in outputs:
            head = _head(result, variant) if output == outputs[0] else {}
            loss = _loss(findings, variant.name, output, budget)
            rows.append({**head, **cells(output, variant.metrics.get(output, {})), "loss": loss})
    always = ("variant", "size", "remark")
    shown = [column for column in headings if column in always or any(row.get(column) for row in rows)]
    return [[headings[column] for column in shown], *([row.get(column, "") for column in shown] for row in rows)]


def _head(result: PackageResult, variant: VariantResult) -> dict[str, str]:
    """What is said once of a variant."""
    return {
        "variant": variant.name,
        "size": "" if variant.size_bytes is None else size_text(variant.size_bytes),
        "latency": _time(variant.latency),
        "bench": _time(variant.bench),
        "remark": _remark(result, variant),
    }


def _all_metrics(result: PackageResult) -> Iterator[dict[str, float]]:
    for metrics in (result.source_metrics, *(one.metrics for one in result.variants)):
        yield from metrics.values()


def _loss(findings: Findings, variant: str, output: str, budget: Budget | None) -> str:
    found = findings.variants.get(variant, VariantFindings()).outputs.get(output)
    if found is None or found.loss_points is None:
        return ""
    over = budget is not None and not budget.allows(found.loss_points, found.reference_points)
    return f"{points_text(found.loss_points)} pt{', over' if over else ''}"


def _time(times: Sequence[Latency]) -> str:
    """The median with the fewest threads: short, and the same for all."""
    return time_text(min(times, key=lambda one: one.threads).median_us) if times else ""


def _remark(result: PackageResult, variant: VariantResult) -> str:
    if variant.status != "ok":
        return variant.status
    targets = targets_of(result, variant.name)
    return f"chosen for {', '.join(targets)}" if targets else ""


def _measured(result: PackageResult) -> str:
    if result.evaluation_samples:
        return f"Measured on {result.evaluation_samples} evaluation samples."
    return "" if result.notes else "No evaluation data were given when it was made: accuracy was not measured."


def _budget(budget: Budget | None) -> str:
    return f"A variant may lose {budget}." if budget else ""


def _timed(result: PackageResult) -> Iterator[str]:
    here = f"on this host ({result.host})" if result.host else "on this host"
    yield _timing("Latency", here, [one.latency for one in result.variants])
    yield _timing("Bench", f"on {result.bench_host or 'a device'}", [one.bench for one in result.variants])


def _timing(what: str, where: str, times: Sequence[Sequence[Latency]]) -> str:
    threads = sorted({min(one.threads for one in entries) for entries in times if entries})
    count = "1 thread" if threads == [1] else f"{', '.join(map(str, threads))} threads"
    return f"{what}: the median of one call with one sample {where}, {count}." if threads else ""


def _cascades(result: PackageResult) -> Iterator[str]:
    for one in result.variants:
        if one.cascade is not None:
            yield f"answers of {one.name} that are for a server: {cascade_text(one.cascade)}"


def _why(variant: VariantResult) -> str:
    return f"{variant.name} {variant.status}: {variant.error}" if variant.error else ""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equally many cells as lines, each column as wide as its widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
