"""What a source tells of a version that should be served."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

Fingerprint = tuple[tuple[str, int, int], ...]
"""Relative path, size in bytes and mtime in ns of everything in a version's tree, sorted; of its archive alone where it
came in one, whatever that is called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AspiredVersion:
    """Where a version stands, and as what it was found.

    Attributes:
        path: Its folder.
        fingerprint: Tells one content from another at the same place.
        archive: What the folder is to be unpacked from, or was; None where it came as a folder.
    """

    path: Path
    fingerprint: Fingerprint = field(repr=False)
    archive: Path | None = field(default=None, compare=False)

    @property
    def place(self) -> Path:
        """Where it came from, for messages."""
        return self.archive or self.path

    def stands_elsewhere(self, other: AspiredVersion) -> bool:
        """Whether it is another version's files by their place, and not those of the same place that have changed.

        An archive that was only given another name is the same one.
        """
        if self.path != other.path:
            return True
        if self.fingerprint == other.fingerprint or self.archive is None or other.archive is None:
            return False
        return self.archive != other.archive
