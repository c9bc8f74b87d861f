"""The page: which sections there are, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from converter.config import Budget
from converter.figures import count_text, metric_heading, metric_text, points_text, size_text, time_text
from converter.findings import Findings, VariantFindings
from converter.report_html import accelerators, classes, layers, plot, samples, variants
from converter.report_html.markup import Child, Markup, clean, join, sentence, tag
from converter.report_html.style import sheet
from converter.result import PackageResult, VariantResult
from converter.summary import (
    BASELINE,
    DEFAULT,
    baseline,
    cascade_text,
    closest,
    compared,
    headline,
    loss_of,
    said_budget,
    size_factor,
    speed_factor,
)

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Should a name ever get past the escaping, the browser still runs nothing and fetches nothing."""

_WHOLE = 20
"""Characters of the largest font that fit on the narrowest screen."""

_TERMS = {
    "accuracy": "Share of the samples whose largest score is at the label's place.",
    "top1_agreement": "Share of the samples whose largest score is where the original's is.",
    "sqnr_db": "Signal to quantization noise: the original's power over the power of the difference, in dB.",
    "f1": "Harmonic mean of precision and recall of the cells above the threshold; the original says which count.",
    "relative_rmse": "RMSE over the standard deviation of the original's values.",
    "rmse": "Root of the mean squared difference from the original, in the output's own unit.",
}


def render(
    result: PackageResult,
    findings: Findings,
    *,
    thumbnails: Mapping[tuple[str, int], bytes] | None = None,
    labels: Sequence[str] = (),
    tools: Mapping[str, str] | None = None,
    budget: Budget | None = None,
    targets: Sequence[str] = (),
    refusal: str = "",
) -> str:
    """The report as one HTML file, which reads no other and needs no script.

    Args:
        result: What became of each variant.
        findings: What was found out about them.
        thumbnails: PNG files by output and sample, for the worst samples; see `thumbnails.make`.
        labels: Class names.
        tools: What made the package, with its versions.
        budget: What a variant may lose; None for what the findings say of it.
        targets: All targets that a variant was looked for.
        refusal: Why nothing was published, as the command says it: the first line then.
    """
    report = _Report(
        result=result,
        findings=findings,
        thumbnails=thumbnails or {},
        labels=labels,
        tools=tools or {},
        budget=budget or said_budget(findings),
        decision=f"{refusal[:1].upper()}{refusal[1:]}"
        or headline(result, findings, budget=budget or said_budget(findings), targets=targets),
    )
    return report.page()


@dataclass(frozen=True, kw_only=True)
class _Report:
    """All that the sections are made from."""

    result: PackageResult
    findings: Findings
    thumbnails: Mapping[tuple[str, int], bytes]
    labels: Sequence[str]
    tools: Mapping[str, str]
    budget: Budget | None
    decision: str
    shown: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = dict.fromkeys(name for _, name in sorted(self.result.chosen.items(), key=lambda one: one[0] != DEFAULT))
        near = closest(self.result, self.findings, self.budget)
        # Details are of what was chosen; where nothing was, of what came closest.
        object.__setattr__(self, "shown", tuple(names) or ((near,) if near else ()))

    def page(self) -> str:
        """The whole file."""
        title = f"{self.result.name} version {self.result.version}: conversion report"
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            Markup(f"<style>{sheet()}</style>"),
        )
        written = [(key, heading, content) for key, heading, make in self._sections() if (content := make())]
        body = tag(
            "body",
            self._header([(key, heading) for key, heading, _ in written]),
            tag("main", *(_section(key, heading, content) for key, heading, content in written)),
            class_=None if self.result.package else "refused",
        )
        return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'

    def _sections(self) -> Iterator[tuple[str, str, Callable[[], Markup | None]]]:
        yield "variants", "Variants", lambda: variants.table(self.result, self.findings, self.budget)
        yield "trade-off", "Size, loss and latency", lambda: plot.figure(self.result, self.findings, self.budget)
        yield "layers", "Error of each layer", self._layers
        yield "cascade", "Device and server together", self._cascade
        yield "classes", "Classes", self._classes
        yield "confusion", "Original against variant", self._confusion
        yield "edge-tpu", "Edge TPU", self._edge_tpu
        yield "gpu", "GPU", self._gpu
        yield "worst", "Worst samples", self._worst
        yield "notes", "Notes", self._notes
        yield "how", "How this was made", self._how

    def _header(self, contents: Sequence[tuple[str, str]]) -> Markup:
        result = self.result
        said = [f"{result.name} version {result.version}"]
        if result.evaluation_samples:
            said.append(f"measured on {count_text(result.evaluation_samples, 'evaluation sample')}")
        said += [f"a variant may lose {self.budget}"] if self.budget else []
        links = [tag("li", tag("a", heading, href=f"#{key}")) for key, heading in contents]
        return tag(
            "header",
            tag("h1", _unbroken(self.decision)),
            tag("p", " · ".join(said), class_="byline"),
            self._key_figures(),
            tag("nav", tag("ul", *links), aria_label="Contents"),
        )

    def _key_figures(self) -> Markup | None:
        """The chosen variant's own, in large."""
        variant = next((one for one in self.result.variants if self.shown and one.name == self.shown[0]), None)
        if variant is None or variant.status != "ok":
            return None
        chosen = bool(self.result.chosen)
        boxes = [_figure("variant chosen" if chosen else "came closest", variant.name)]
        boxes += [*self._size(variant), *self._quality(variant), *self._latency(variant)]
        return tag("dl", *boxes, class_="key")

    def _size(self, variant: VariantResult) -> Iterator[Markup]:
        if variant.size_bytes is not None:
            factor = size_factor(self.result, variant) if variant.name != BASELINE else None
            sub = compared(factor, "smaller than float32", "larger than float32", "as float32") if factor else ""
            yield _figure("size", size_text(variant.size_bytes), sub)

    def _quality(self, variant: VariantResult) -> Iterator[Markup]:
        loss = loss_of(self.findings, variant.name)
        if loss is None:
            yield _figure("accuracy", "not measured")
            return
        name = metric_heading(loss.primary)
        value = variant.metrics.get(loss.output, {}).get(loss.primary)
        original = self.result.source_metrics.get(loss.output, {}).get(loss.primary)
        if value is not None:
            sub = f"original {metric_text(loss.primary, original)}" if original is not None else "against the original"
            yield _figure(name, metric_text(loss.primary, value), sub)
        most = f"{self.budget.in_points(loss.reference_points):.3g}" if self.budget else ""
        bound = f"points, {most} allowed" if most else "points"
        yield _figure(f"loss of {name}", f"{points_text(loss.points)}", bound)

    def _latency(self, variant: VariantResult) -> Iterator[Markup]:
        for where, times in (("latency, this host", variant.latency), ("latency, device", variant.bench)):
            if times:
                least = min(times, key=lambda one: one.threads)
                threads = f"{least.threads} thread{'s' if least.threads > 1 else ''}"
                sub = f"{threads}, p90 {time_text(least.p90_us)}"
                factor = speed_factor(self.result, variant) if times is variant.latency else None
                if factor and variant is not baseline(self.result):
                    sub += f", {compared(factor, 'faster', 'slower', 'as fast')}"
                yield _figure(where, time_text(least.median_us), sub)

    def _found(self) -> Iterator[tuple[str, VariantFindings]]:
        """What the details are of: the variants that matter, then the others."""
        everything = self.findings.variants
        for name in (*self.shown, *sorted(set(everything) - set(self.shown))):
            if name in everything:
                yield name, everything[name]

    def _layers(self) -> Markup | None:
        found = [(name, one.layers) for name, one in self._found() if one.layers]
        # One of them is enough: int8 and mixed are searched on the same operators.
        return layers.section(*found[0]) if found else None

    def _cascade(self) -> Markup | None:
        """One sentence for each variant that matters: what would have to be asked of the server."""
        items = [
            tag("li", tag("span", name, class_="name"), f": {cascade_text(found)}")
            for name in self._detailed()
            if (found := self.findings.variants[name].cascade)
        ]
        said = "How many answers a server would have to give, so that both together are as accurate as the original."
        return join((tag("p", said), tag("ul", *items, class_="notes"))) if items else None

    def _classes(self) -> Markup | None:
        return self._by_output(
            lambda name, output: classes.table(name, output.classes, self.labels) if output.classes else None
        )

    def _confusion(self) -> Markup | None:
        return self._by_output(
            lambda name, output: classes.confusion(name, output.confusion, self.labels) if output.confusion else None
        )

    def _worst(self) -> Markup | None:
        def shown(name: str) -> Markup | None:
            outputs = self.findings.variants[name].outputs
            parts = [
                (output, samples.cards(output, one.worst, self.thumbnails, self.labels))
                for output, one in sorted(outputs.items())
                if one.worst
            ]
            return _titled(name, parts) if parts else None

        made = [content for name in self._detailed() if (content := shown(name))]
        said = "Where a variant's answer is furthest from the original's, the furthest first."
        return join((tag("p", said), *made)) if made else None

    def _detailed(self) -> list[str]:
        return [name for name in self.shown if name in self.findings.variants]

    def _by_output(self, make: Callable[..., Markup | None]) -> Markup | None:
        blocks = []
        for name in self._detailed():
            outputs = self.findings.variants[name].outputs
            parts = [(output, content) for output, one in sorted(outputs.items()) if (content := make(name, one))]
            blocks += [_titled(name, parts)] if parts else []
        return join(blocks) or None

    def _edge_tpu(self) -> Markup | None:
        found = [(name, one.edge_tpu) for name, one in self._found() if one.edge_tpu]
        return join(join((_heading(name), accelerators.edge_tpu(report))) for name, report in found) or None

    def _gpu(self) -> Markup | None:
        found = [(name, one.gpu) for name, one in self._found() if one.gpu]
        said = tag(
            "p", "What LiteRT's GPU delegate takes, by TensorFlow Lite's analyzer and the delegate's list of operators."
        )
        return join((said, accelerators.gpu(found))) if found else None

    def _notes(self) -> Markup | None:
        notes = dict.fromkeys((*self.result.notes, *self.findings.notes))
        return tag("ul", *(tag("li", note) for note in notes), class_="notes") if notes else None

    def _how(self) -> Markup:
        used = {metric for one in self.result.variants for found in one.metrics.values() for metric in found}
        rows: list[tuple[str, str]] = [(metric_heading(name), said) for name, said in _TERMS.items() if name in used]
        rows += [(name, version) for name, version in sorted(self.tools.items())]
        rows += [("measured on", self.result.host)] if self.result.host else []
        rows += [("device", self.result.bench_host)] if self.result.bench_host else []
        rows += [("package", self.result.package)] if self.result.package else []
        terms = [item for term, text in rows for item in (tag("dt", term), tag("dd", text))]
        said = "Each variant was converted, run on real inputs and compared with the original before it counted."
        return join((tag("p", said), tag("dl", *terms, class_="terms") if terms else None))


def _section(key: str, heading: str, content: Markup) -> Markup:
    return tag("section", tag("h2", heading, id=f"{key}-heading"), content, id=key, aria_labelledby=f"{key}-heading")


def _unbroken(text: str) -> Markup:
    """Names are not broken at their hyphens, as long as they fit a narrow line."""
    words = clean(text).split(" ")
    return sentence(*(tag("span", one, class_="whole") if "-" in one and len(one) <= _WHOLE else one for one in words))


def _heading(variant: str, output: str = "") -> Markup:
    named: list[Child] = [tag("span", variant, class_="name")]
    named += ["output", tag("span", output, class_="name")] if output else []
    return tag("h3", sentence(*named))


def _titled(variant: str, parts: Sequence[tuple[str, Markup]]) -> Markup:
    """Each output's content under the variant's name; the output is named where there are several."""
    several = bool(parts[1:])
    return join(join((_heading(variant, output if several else ""), content)) for output, content in parts)


def _figure(term: str, value: str, sub: str = "") -> Markup:
    return tag("div", tag("dt", term), tag("dd", value), tag("dd", sub, class_="sub") if sub else None)
