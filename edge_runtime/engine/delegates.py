"""The table of delegates: who opens a session on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_runtime.engine.base import Session, SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession

FACTORIES: Mapping[str, Callable[[SessionSpec, bytes], Session]] = {"cpu": InterpreterSession}
"""By the delegate's name."""


def open_session(spec: SessionSpec, content: bytes) -> Session:
    """Opens a session of a file in this process.

    Args:
        spec: What to open.
        content: The file, verified.

    Raises:
        EngineFailed: the delegate, its device or the file is not to be had.
        PackageRefused: the file's tensors are not what the manifest says.
    """
    return FACTORIES[spec.delegate](spec, content)
