"""Which interpreter library this device has: ai-edge-litert, or tflite-runtime on a board that only has that."""

from __future__ import annotations

import importlib
from typing import Any

from edge_runtime.errors import EngineFailed

_LIBRARIES = {
    "ai_edge_litert": ("ai-edge-litert", "ai-edge-litert-nightly"),
    "tflite_runtime": ("tflite-runtime", "tflite-runtime-nightly"),
}
"""The modules, best first, and the distributions that they come with."""


def interpreter_module() -> Any:
    """The module that has `Interpreter` and `load_delegate`, loaded by the first call.

    Raises:
        EngineFailed: there is none that can be loaded; the text says why not, for each that was tried.
    """
    reasons = []
    for name in _LIBRARIES:
        try:
            return importlib.import_module(f"{name}.interpreter")
        except ImportError as error:
            reasons.append(f"{name}: {error}")
    raise EngineFailed(
        f"no interpreter library can be loaded ({'; '.join(reasons)}): install ai-edge-litert, "
        "or tflite-runtime with numpy < 2 where there is no wheel of it"
    )


def installed() -> tuple[str, str]:
    """The name and version of the library that `interpreter_module` loads, found without loading it.

    The version is "unknown" where the board's image brings the module without what says its version. A library that is
    there but broken counts as installed.

    Raises:
        EngineFailed: there is none.
    """
    from importlib import metadata, util  # noqa: PLC0415  15 ms, which not every application needs

    for module, distributions in _LIBRARIES.items():
        if util.find_spec(module) is None:
            continue
        for distribution in distributions:
            try:
                return distribution, metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
        return distributions[0], "unknown"
    raise EngineFailed("no interpreter library is installed: install ai-edge-litert")
