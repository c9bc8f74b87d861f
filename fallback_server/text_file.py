"""Reads the text of a configuration file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fallback_server.config import ConfigInvalid

MAX_FILE_BYTES = 2**24
"""16 MiB: a list of ten thousand models is smaller."""


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        ConfigInvalid: it can't be read, is too large or is no UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigInvalid(f"{path}: larger than {MAX_FILE_BYTES} bytes, the most that is read")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror or error}") from error


def digest_of(text: str) -> bytes:
    """Tells one content of a file from another."""
    return hashlib.sha256(text.encode()).digest()
