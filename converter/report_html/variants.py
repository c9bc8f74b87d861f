"""The table of variants: what each costs, and what it loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from converter.artifact import Latency
from converter.config import Budget
from converter.figures import count_text, in_order, metric_heading, metric_text, points_text, size_text, time_text
from converter.findings import Findings, OutputFindings, VariantFindings
from converter.report_html.markup import Markup, join, scrolling, sentence, shortened, tag
from converter.result import PackageResult, VariantResult
from converter.summary import BASELINE, compared, front, size_factor, targets_of

_HEADING_CHARACTERS = 32
"""A heading is one column wide; the name of a function that measures can be long."""


def table(result: PackageResult, findings: Findings, budget: Budget | None) -> Markup:
    """A row for the original, and one for each variant and output."""
    columns = _Columns(result, findings, budget)
    rows = [*columns.originals(), *(row for one in result.variants for row in columns.rows(one))]
    failures = [
        tag("li", sentence(tag("span", one.name, class_="name"), f"{one.status}: {one.error}"))
        for one in result.variants
        if one.error
    ]
    made = tag("table", columns.head(), tag("tbody", *rows))
    below = tag("ul", *failures, class_="notes") if failures else None
    return join((scrolling("Table of variants", made, _caption(result)), below))


def _caption(result: PackageResult) -> str:
    said = [
        f"Measured on {count_text(result.evaluation_samples, 'evaluation sample')}."
        if result.evaluation_samples
        else "Nothing was measured on evaluation data."
    ]
    if any(one.latency for one in result.variants):
        host = f" ({result.host})" if result.host else ""
        said.append(f"Latency is of one call with one sample, warm, on the host that made this report{host}.")
    if any(one.bench for one in result.variants):
        said.append(f"The device's times were measured on {result.bench_host or 'an unnamed device'}.")
    return " ".join(said)


class _Columns:
    """Which columns the table has; those that would be empty are left out."""

    def __init__(self, result: PackageResult, findings: Findings, budget: Budget | None) -> None:
        self._result, self._findings, self._budget = result, findings, budget
        self._front = front(result, findings)
        named = {name for one in result.variants for name in one.metrics}
        self._outputs = sorted(named | set(result.source_metrics)) or [""]
        everything = [result.source_metrics, *(one.metrics for one in result.variants)]
        self._metrics = in_order({name for metrics in everything for found in metrics.values() for name in found})
        self._losses = any(self._found(one.name, output) for one in result.variants for output in self._outputs)
        self._here = sorted({time.threads for one in result.variants for time in one.latency})
        self._there = sorted({time.threads for one in result.variants for time in one.bench})

    def _found(self, variant: str, output: str) -> OutputFindings | None:
        found = self._findings.variants.get(variant, VariantFindings()).outputs.get(output)
        return found if found and found.loss_points is not None else None

    def head(self) -> Markup:
        """Two rows: times have a heading for the machine and one for each number of threads."""
        rows = 2 if self._here or self._there else 1

        def heading(text: str, *, number: bool = True) -> Markup:
            return tag(
                "th",
                shortened(text, _HEADING_CHARACTERS),
                scope="col",
                rowspan=rows if rows > 1 else None,
                class_="n" if number else None,
            )

        first = [heading("variant", number=False), heading("size")]
        first += [heading("output", number=False)] if self._outputs[1:] else []
        first += [heading(metric_heading(name)) for name in self._metrics]
        first += [heading("loss, points")] if self._losses else []
        for text, threads in (("latency, this host", self._here), ("latency, device", self._there)):
            if threads:
                first.append(tag("th", text, scope="colgroup", colspan=len(threads), class_="n"))
        second = [
            tag("th", f"{count} thread{'s' if count > 1 else ''}", scope="col", class_="n")
            for count in (*self._here, *self._there)
        ]
        return tag("thead", tag("tr", *first), tag("tr", *second) if second else None)

    def originals(self) -> Iterator[Markup]:
        """The original's own metrics, by output."""
        for index, output in enumerate(self._outputs):
            found = self._result.source_metrics.get(output)
            if found:
                head = tag("th", "original", scope="row") if index == 0 else tag("td")
                rest = [tag("td")] * (self._losses + len(self._here) + len(self._there))
                yield tag("tr", head, tag("td"), *self._values(output, found), *rest)

    def rows(self, variant: VariantResult) -> Iterator[Markup]:
        """One a output; what is of the whole variant spans them."""
        kind = "chosen" if targets_of(self._result, variant.name) else None
        outputs = self._outputs if variant.status == "ok" else self._outputs[:1]
        span = len(outputs) if outputs[1:] else None
        for index, output in enumerate(outputs):
            head, tail = (self._lead(variant, span), self._times(variant, span)) if index == 0 else ([], [])
            cells = self._values(output, variant.metrics.get(output, {}))
            loss = [self._loss(self._found(variant.name, output))] if self._losses else []
            yield tag("tr", *head, *cells, *loss, *tail, class_=kind)

    def _lead(self, variant: VariantResult, span: int | None) -> list[Markup]:
        name = tag("span", variant.name, class_="name")
        said = []
        if variant.status != "ok":
            said.append(tag("div", tag("span", variant.status, class_="tag warn"), class_="tags"))
        targets = targets_of(self._result, variant.name)
        tags = [tag("span", target, class_="tag") for target in targets]
        said += [tag("small", "chosen for"), tag("div", *tags, class_="tags")] if targets else []
        said += [tag("small", "on the Pareto front")] if variant.name in self._front and not targets else []
        size = "" if variant.size_bytes is None else size_text(variant.size_bytes)
        factor = size_factor(self._result, variant) if variant.name != BASELINE else None
        smaller = tag("small", compared(factor, "smaller", "larger", "as large")) if factor is not None else None
        return [tag("th", name, *said, scope="row", rowspan=span), tag("td", size, smaller, class_="n", rowspan=span)]

    def _values(self, output: str, found: Mapping[str, float]) -> list[Markup]:
        named = [tag("td", tag("span", output, class_="name"))] if self._outputs[1:] else []
        return [*named, *(tag("td", metric_text(name, found.get(name)), class_="n") for name in self._metrics)]

    def _loss(self, found: OutputFindings | None) -> Markup:
        if found is None or found.loss_points is None:
            return tag("td")
        if self._budget is None:
            return tag("td", points_text(found.loss_points), class_="n")
        bound = self._budget.in_points(found.reference_points)
        inside = self._budget.allows(found.loss_points, found.reference_points)
        text = f"{'of' if inside else 'over'} {bound:.3g}"
        return tag("td", points_text(found.loss_points), tag("small", text), class_="n" if inside else "n over")

    def _times(self, variant: VariantResult, span: int | None) -> list[Markup]:
        return [
            tag("td", *_time(times, count), class_="n", rowspan=span)
            for times, counts in ((variant.latency, self._here), (variant.bench, self._there))
            for count in counts
        ]


def _time(times: Sequence[Latency], threads: int) -> list[Markup | str]:
    found = next((one for one in times if one.threads == threads), None)
    if found is None:
        return []
    return [time_text(found.median_us), tag("small", f"p90 {time_text(found.p90_us)}")]
