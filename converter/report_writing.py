"""Writes the HTML report beside the package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from converter import thumbnails
from converter.artifact import Signature
from converter.config import Budget
from converter.data import Dataset
from converter.findings import Findings
from converter.report_html import render
from converter.result import PackageResult


def report_text(
    result: PackageResult,
    findings: Findings,
    *,
    labels: tuple[str, ...],
    tools: Mapping[str, str],
    targets: tuple[str, ...],
    budget: Budget | None,
    refusal: str,
    evaluation: Dataset | None,
    signature: Signature,
) -> str:
    """The report, with the worst samples as pictures where the evaluation data are pictures."""
    worst = sorted(
        {
            (name, sample.sample)
            for variant in findings.variants.values()
            for name, output in variant.outputs.items()
            for sample in output.worst
        }
    )
    pictures = thumbnails.make(evaluation, signature, {sample for _, sample in worst}) if evaluation else {}
    return render(
        result,
        findings,
        thumbnails={(name, sample): pictures[sample] for name, sample in worst if sample in pictures},
        labels=labels,
        tools=tools,
        budget=budget,
        targets=targets,
        refusal=refusal,
    )


@contextlib.contextmanager
def written(text: str, path: Path) -> Iterator[None]:
    """Has the report in place once the body is through, and nothing of it where the body fails.

    It is written before, so that a full disk is found out before a package is published without it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, "utf-8")
        yield
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
