"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from converter.progress import Progress, Step


@contextlib.contextmanager
def shown_progress(*, logs: bool = False) -> Iterator[Progress]:
    """A callback that shows steps on stderr while the `with` lasts; with `logs` also what failed steps wrote."""
    if not sys.stderr.isatty():
        yield _lines(logs=logs)
        return
    try:
        from rich.console import Console  # noqa: PLC0415  of the `convert` extra, and slow to import
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415
    except ImportError:
        yield _lines(logs=logs)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(step: Step) -> None:
            bar.update(task, completed=step.done, total=step.total)
            if step.text:
                bar.update(task, description=step.text)
            if logs and step.log:
                bar.console.print(step.log, markup=False, highlight=False)

        yield show


def _lines(*, logs: bool) -> Progress:
    def show(step: Step) -> None:
        if step.text:
            sys.stderr.write(f"[{step.done}/{step.total}] {step.text}\n")
        if logs and step.log:
            sys.stderr.write(f"{step.log}\n")
        sys.stderr.flush()

    return show
