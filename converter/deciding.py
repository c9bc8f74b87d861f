"""The end of a conversion: chooses, publishes or says why not, and writes the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from converter import latency
from converter.artifact import version_path
from converter.choose import Candidate, Choice, choose
from converter.config import ConvertOptions
from converter.conversion import Conversion, Outcome
from converter.data import images
from converter.data.loading import kind_of
from converter.errors import NothingFits, NoVariantMade
from converter.evaluate import Reference
from converter.findings import Findings
from converter.interrupts import holding_interrupts
from converter.packing import Loaded, Made, findings_of, notes_on, publish_package
from converter.report_writing import beside, report_path, report_text, written
from converter.result import PackageResult, VariantResult
from converter.tools import tool_versions


def candidate(one: Made) -> Candidate:
    """What the choice looks at."""
    return Candidate(
        name=one.name,
        size_bytes=one.size_bytes,
        latency_us=one.latency[0].median_us if one.latency else None,
        outputs=one.outputs,
        full_int8=one.full_int8,
        delegate=one.delegate,
    )


def decide(
    conversion: Conversion, loaded: Loaded, reference: Reference | None, outcomes: Sequence[Outcome]
) -> PackageResult:
    """Chooses a variant for each target and publishes the package.

    Raises:
        NoVariantMade: there is none to choose from.
        NothingFits: for one of the targets none is within the budget; a report is written nevertheless, beside that
            of a package that is there.
        PackageExists, OSError: see `artifact.publish`.
    """
    options = conversion.options
    made = [one for one in outcomes if isinstance(one, Made)]
    results = [one.result if isinstance(one, Made) else one for one in outcomes]
    if not made:
        raise _no_variant(options, results)
    choices = _choices(conversion, made, measured=loaded.evaluation is not None)
    missing = [f"{target}: {one.why}" for target, one in choices.items() if one.variant is None]
    report = report_path(options.output, options.name, options.version, rejected=bool(missing))
    refusal = f"nothing was published: {'; '.join(missing)}" if missing else ""
    numbering = _numbering(options)
    notes = (
        *notes_on(loaded, reference),
        *numbering,
        *(f"{target}: {one.why}." for target, one in choices.items() if one.closest),
    )
    findings = findings_of(made, options.budget, notes)
    chosen = {target: one.variant for target, one in choices.items() if one.variant is not None}
    result = PackageResult(
        package=None if refusal else str(version_path(options.output, options.name, options.version)),
        name=options.name,
        version=options.version,
        chosen=chosen,
        variants=tuple(results),
        source_metrics=reference.metrics() if reference and loaded.evaluation else {},
        evaluation_samples=loaded.evaluation.samples if loaded.evaluation else 0,
        notes=notes,
        host=latency.host() if options.measure_latency else "",
        report=str(report) if options.report else None,
    )
    conversion.counter.begin("writing the report" if refusal else "writing the package")
    text = _report(conversion, loaded, result, findings, refusal) if options.report else None
    if refusal:
        raise _rejected(conversion, refusal, result, findings, text)
    with holding_interrupts() as hold:
        publish_package(
            options,
            loaded,
            reference,
            made,
            chosen=chosen,
            findings=findings,
            folder=conversion.folder,
            beside=beside(text, options.name, options.version, replace=options.replace),
            sign=conversion.plan.key.sign if conversion.plan.key else None,
            before_moving=hold,
        )
        conversion.counter.end()
    return result


def _rejected(
    conversion: Conversion, refusal: str, result: PackageResult, findings: Findings, text: str | None
) -> NothingFits:
    if text is not None and result.report:
        with written(text, Path(result.report)):
            refusal = f"{refusal}; the report is {result.report}"
    conversion.counter.end()
    return NothingFits(refusal, result, findings)


def _numbering(options: ConvertOptions) -> tuple[str, ...]:
    """A set of images without class names is numbered by guess, which the user should know."""
    spec = options.evaluation
    if spec is None or options.labels or kind_of(spec) != "images":
        return ()
    return tuple(filter(None, [images.numbering(Path(spec))]))


def _report(conversion: Conversion, loaded: Loaded, result: PackageResult, findings: Findings, refusal: str) -> str:
    options = conversion.options
    return report_text(
        result,
        findings,
        labels=loaded.labels,
        tools=tool_versions(loaded.source.tensorflow),
        targets=tuple(one.target for one in conversion.plan.needs),
        budget=options.budget,
        refusal=refusal,
        evaluation=loaded.evaluation,
        signature=loaded.source.signatures[0],
    )


def _choices(conversion: Conversion, made: Sequence[Made], *, measured: bool) -> dict[str, Choice]:
    options = conversion.options
    candidates = [candidate(one) for one in made]
    return {
        needs.target: choose(candidates, needs, options.budget, options.optimize, measured=measured)
        for needs in conversion.plan.needs
    }


def _no_variant(options: ConvertOptions, variants: Sequence[VariantResult]) -> NoVariantMade:
    reasons: dict[str, list[str]] = {}
    for one in variants:
        reasons.setdefault(one.error or "", []).append(one.name)
    listed = "; ".join(f"{', '.join(names)}: {error}" for error, names in reasons.items())
    result = PackageResult(
        package=None, name=options.name, version=options.version, chosen={}, variants=tuple(variants)
    )
    return NoVariantMade(f"no variant could be made, so nothing was published: {listed}", result)
