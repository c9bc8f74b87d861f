"""A package as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from converter.result import PackageResult, VariantResult

_METRIC_ORDER = ("accuracy", "top1_agreement", "sqnr_db", "rmse")
_HEADINGS = {"accuracy": "accuracy", "top1_agreement": "agreement", "sqnr_db": "SQNR", "rmse": "RMSE"}


def table(result: PackageResult) -> str:
    """Lines for a person: one for the original, one for each variant and output, what is chosen, and the notes."""
    metrics = [name for name in _METRIC_ORDER if any(name in found for found in _all_metrics(result))]
    outputs = sorted({name for one in result.variants for name in one.metrics})
    rows = [["variant", "size", *(["output"] if outputs[1:] else []), *(_HEADINGS[name] for name in metrics), ""]]
    for output in outputs or [""]:
        original = result.source_metrics.get(output)
        if original:
            cells = [_metric(name, original.get(name)) for name in metrics]
            rows.append(["original", "", *([output] if outputs[1:] else []), *cells, ""])
    for variant in result.variants:
        rows.extend(_variant_rows(result, variant, outputs, metrics))
    lines = [f"{result.name} version {result.version}: {result.package or 'not published'}", "", *_aligned(rows), ""]
    lines += [line for line in (_measured(result), *map(_why, result.variants), *result.notes) if line]
    return "\n".join(lines).rstrip()


def _all_metrics(result: PackageResult) -> Iterator[dict[str, float]]:
    for metrics in (result.source_metrics, *(one.metrics for one in result.variants)):
        yield from metrics.values()


def _variant_rows(
    result: PackageResult, variant: VariantResult, outputs: Sequence[str], metrics: Sequence[str]
) -> Iterator[list[str]]:
    targets = [target for target, name in sorted(result.chosen.items()) if name == variant.name]
    remark = f"chosen for {', '.join(targets)}" if targets else ""
    if variant.status != "ok":
        remark = variant.status
    size = "" if variant.size_bytes is None else size_text(variant.size_bytes)
    for index, output in enumerate(outputs or [""]):
        found = variant.metrics.get(output, {})
        head = [variant.name, size] if index == 0 else ["", ""]
        cells = [_metric(name, found.get(name)) for name in metrics]
        yield [*head, *([output] if outputs[1:] else []), *cells, remark if index == 0 else ""]


def _metric(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in ("accuracy", "top1_agreement"):
        return f"{value:.2%}"
    return f"{value:.1f} dB" if name == "sqnr_db" else f"{value:.3g}"


def size_text(size_bytes: int) -> str:
    """1234 -> `1.2 kB`, in powers of ten as disks and networks are."""
    size, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 1_000:
            break
        size, unit = size / 1_000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _measured(result: PackageResult) -> str:
    if result.evaluation_samples:
        return f"Measured on {result.evaluation_samples} evaluation samples."
    return "" if result.notes else "No evaluation data were given when it was made: accuracy was not measured."


def _why(variant: VariantResult) -> str:
    return f"{variant.name} {variant.status}: {variant.error}" if variant.error else ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
