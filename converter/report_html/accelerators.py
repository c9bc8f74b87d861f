"""What an Edge TPU and a GPU would do with a variant."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from converter.figures import size_text
from converter.findings import EdgeTpuReport, GpuReport, OperatorMapping
from converter.report_html.markup import Child, Markup, bar, join, scrolling, sentence, tag

MAX_OPERATORS = 400
"""Blocks of the map; a graph of more is cut there."""

MAX_REASONS = 40

MAX_PROBLEMS = 20

_BY = {
    "rules": "Foretold from the published operator table, without the compiler.",
    "compiler": "Read from the log of edgetpu_compiler.",
}


def edge_tpu(report: EdgeTpuReport) -> Markup:
    """The map of the graph, the shares, and why operators stay on the CPU."""
    operators = report.operators
    mapped = sum(one.mapped for one in operators)
    parts = [
        tag("p", _said(report, mapped)),
        *(tag("p", blocker, class_="warn") for blocker in report.blockers),
        _meters(report),
        _map(report),
        _reasons(operators),
        tag("p", _BY[report.by], class_="muted"),
    ]
    return join(parts)


def _said(report: EdgeTpuReport, mapped: int) -> Markup:
    total = len(report.operators)
    if mapped == total and total:
        return join((f"All {total} operators run on the Edge TPU.",))
    said: list[Child] = [f"{mapped} of {total} operators run on the Edge TPU."]
    first = next((one for one in report.operators if one.index == report.first_unmapped), None)
    if first is not None:
        named = tag("span", first.name, class_="name")
        said += [
            "The first that it does not take, and with it the end of its part, is",
            join((f"number {first.index}, {first.operator} (", named, ")")),
        ]
        said[-1] = join((said[-1], f": {first.reason}." if first.reason else "."))
    return sentence(*said)


def _meters(report: EdgeTpuReport) -> Markup:
    cache = report.parameter_bytes / report.cache_bytes if report.cache_bytes else 0.0
    fits = "all of them fit" if cache <= 1 else f"{size_text(report.parameter_bytes - report.cache_bytes)} streamed"
    return tag(
        "div",
        tag("span", f"{report.macs_mapped:.1%} of the multiply-accumulates on the Edge TPU"),
        bar(report.macs_mapped),
        tag(
            "span",
            f"{size_text(report.parameter_bytes)} of parameters, {size_text(report.cache_bytes)} of on-chip cache: "
            f"{fits}",
        ),
        bar(cache, kind="warn" if cache > 1 else ""),
        class_="meter",
    )


def _map(report: EdgeTpuReport) -> Markup:
    """The operators in order; runs of the same one, on the same side, are one block with their number."""
    shown = report.operators[:MAX_OPERATORS]
    blocks = []
    for (operator, mapped, first), run in groupby(
        shown, key=lambda one: (one.operator, one.mapped, one.index == report.first_unmapped)
    ):
        blocks.append(_block(operator, list(run), mapped=mapped, first=first))
    left = len(report.operators) - len(shown)
    more = [tag("li", f"{left} more", class_="more")] if left else []
    legend = tag(
        "figcaption",
        "The graph in the order of execution. A block with a solid edge runs on the Edge TPU, one with a dashed edge "
        "on the CPU; the first that ends the Edge TPU's part has a heavy edge and ▶.",
    )
    return tag("figure", tag("ol", *blocks, *more, class_="map", aria_label="Operators in order"), legend)


def _block(operator: str, run: Sequence[OperatorMapping], *, mapped: bool, first: bool) -> Markup:
    indices = str(run[0].index) if len(run) == 1 else f"{run[0].index} to {run[-1].index}"
    where = "Edge TPU" if mapped else "CPU"
    reason = f": {run[0].reason}" if run[0].reason else ""
    text = f"{'▶ ' if first else ''}{operator}{f' x{len(run)}' if len(run) > 1 else ''}"
    kinds = " ".join(kind for kind, holds in (("cpu", not mapped), ("first", first)) if holds)
    return tag("li", text, class_=kinds or None, title=f"{indices}, {where}{reason}")


def _reasons(operators: Sequence[OperatorMapping]) -> Markup | None:
    unmapped = [one for one in operators if not one.mapped]
    if not unmapped:
        return None
    counts: dict[tuple[str, str], list[OperatorMapping]] = {}
    for one in unmapped:
        counts.setdefault((one.operator, one.reason or "after the first that is not mapped"), []).append(one)
    heads = (("operator", ""), ("why it stays on the CPU", ""), ("how many", "n"), ("first", ""))
    head = tag("thead", tag("tr", *(tag("th", text, scope="col", class_=kind or None) for text, kind in heads)))
    rows = [
        tag(
            "tr",
            tag("th", operator, scope="row"),
            tag("td", reason, class_="words"),
            tag("td", str(len(found)), class_="n"),
            tag(
                "td",
                tag("span", found[0].name, class_="name"),
                tag("small", f"number {found[0].index}"),
                class_="words",
            ),
        )
        for (operator, reason), found in list(counts.items())[:MAX_REASONS]
    ]
    left = f"{len(counts) - MAX_REASONS} more reasons are not shown." if len(counts) > MAX_REASONS else ""
    return scrolling("Why operators stay on the CPU", tag("table", head, tag("tbody", *rows)), left)


def gpu(variants: Sequence[tuple[str, GpuReport]]) -> Markup:
    """A row for each variant."""
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in ("variant", "GPU delegate", "problems"))))
    rows = []
    for name, report in variants:
        left = len(report.problems) - MAX_PROBLEMS
        problems = [tag("li", one) for one in report.problems[:MAX_PROBLEMS]]
        problems += [tag("li", f"{left} more")] if left > 0 else []
        takes = tag("span", "takes all of it" if report.compatible else "does not take all of it")
        rows.append(
            tag(
                "tr",
                tag("th", tag("span", name, class_="name"), scope="row"),
                tag("td", takes, class_="words" if report.compatible else "words warn"),
                tag("td", tag("ul", *problems, class_="notes") if problems else None, class_="words"),
            )
        )
    return scrolling("GPU compatibility", tag("table", head, tag("tbody", *rows)))
