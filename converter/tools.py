"""The versions of the programs that make a package, for its manifest."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def tool_versions(tensorflow: str) -> dict[str, str]:
    """By distribution name, the versions in this environment; `tensorflow` is the one that the source was read by."""
    return {
        "ai-edge-litert": _version("ai-edge-litert"),
        "converter": _version("edge-runtime"),
        "numpy": _version("numpy"),
        "tensorflow": tensorflow,
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
