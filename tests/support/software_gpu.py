"""The GPU in software that `devices/fetch-swiftshader.sh` fetches."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".venv/share/swiftshader"
THERE = (FOLDER / "vk_swiftshader_icd.json").is_file()

ENVIRONMENT = {"LD_LIBRARY_PATH": str(FOLDER), "VK_ICD_FILENAMES": str(FOLDER / "vk_swiftshader_icd.json")}
"""What a process must be started with to see it; one that runs already looks for its loader elsewhere."""

NO_DRIVER = {"LD_LIBRARY_PATH": str(FOLDER), "VK_ICD_FILENAMES": str(FOLDER / "none.json")}
"""Likewise, to see a loader without a driver."""
