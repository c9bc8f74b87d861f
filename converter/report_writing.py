"""The HTML report: what it is called, what is in it, and how it is written.

`NAME-VERSION.html` beside a package is that package's report: it comes, is replaced and goes with it. Of a conversion
that published nothing, since nothing fits, the report is `NAME-VERSION.rejected.html`, until one does.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from converter import thumbnails
from converter.artifact import Signature
from converter.config import Budget
from converter.data import Dataset
from converter.errors import OptionInvalid
from converter.findings import Findings
from converter.report_html import render
from converter.result import PackageResult


def report_path(output: Path, name: str, version: int, *, rejected: bool = False) -> Path:
    """Where the report goes: beside the package, since its times are no part of what is reproducible."""
    return output / f"{name}-{version}{'.rejected' if rejected else ''}.html"


def check_report(output: Path, name: str, version: int) -> None:
    """Whether the reports can be written there.

    Raises:
        OptionInvalid: one of them is a directory.
    """
    for rejected in (False, True):
        path = report_path(output, name, version, rejected=rejected)
        if path.is_dir():
            raise OptionInvalid(f"report: {path}: a directory, where a file is to be written")


def beside(text: str | None, name: str, version: int, *, replace: bool) -> dict[str, bytes | None]:
    """What is published with a package, or goes with it: its report, or that of the package that it replaces."""
    files: dict[str, bytes | None] = {report_path(Path(), name, version, rejected=True).name: None}
    if text is not None or replace:
        files[report_path(Path(), name, version).name] = None if text is None else text.encode()
    return files


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

    It is written before, so that a full disk is found out first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another run may write a report of that name at the same time.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
        yield
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
