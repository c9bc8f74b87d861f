"""A GPU in software, out of the files that `devices/fetch-swiftshader.sh` fetches; for child processes only.

The loader of shared libraries reads where it looks when a process starts, so that no test can take this GPU for the
process that it runs in.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / ".venv/share/swiftshader"
_ICD = _FOLDER / "vk_swiftshader_icd.json"


def environment() -> dict[str, str] | None:
    """The environment of a process that finds the GPU; None where it was not fetched."""
    if not _ICD.exists():
        return None
    paths = [str(_FOLDER), os.environ.get("LD_LIBRARY_PATH", "")]
    return os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths)),
        "VK_ICD_FILENAMES": str(_ICD),
    }


def required() -> dict[str, str]:
    """The environment; the test is skipped where there is none, unless everything must be run."""
    found = environment()
    if found is None and os.environ.get("EDGE_TESTS_COMPLETE"):
        pytest.fail("devices/fetch-swiftshader.sh has not been run, and EDGE_TESTS_COMPLETE asks for every test")
    if found is None:
        pytest.skip("no GPU in software: devices/fetch-swiftshader.sh fetches one")
    return found
