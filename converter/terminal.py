"""Progress on stderr: a bar on a terminal that can redraw it, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

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
    console = Console(stderr=True)
    if console.is_dumb_terminal or not console.is_terminal:
        # It can't redraw a line: there a bar would show nothing at all.
        yield _lines(logs=logs)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=console, transient=True) as bar:
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
        with told_if_possible(sys.stderr):
            if step.text:
                sys.stderr.write(f"[{step.done}/{step.total}] {step.text}\n")
            if logs and step.log:
                sys.stderr.write(f"{step.log}\n")
            sys.stderr.flush()

    return show


@contextlib.contextmanager
def told_if_possible(stream: TextIO) -> Iterator[None]:
    """A full disk, a terminal that is gone or a reader that has left changes nothing about what is done."""
    try:
        yield
    except OSError:
        forget(stream)


def forget(stream: TextIO) -> None:
    """Has what Python would still flush at its end go nowhere: it would fail again, and change the exit code."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
