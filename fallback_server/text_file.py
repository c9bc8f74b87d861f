"""Reads the text of a configuration file."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

from fallback_server.config import ConfigInvalid

MAX_FILE_BYTES = 2**24
"""16 MiB: a list of ten thousand models is smaller."""

MAX_DOTS = 1000
"""In a line of TOML. The parser takes the square of a dotted key's parts; keys have a handful."""


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


def parse_toml(text: str) -> dict[str, Any]:
    """A file's text as TOML.

    Raises:
        ValueError: it is none, or takes more to read than any that is one.
    """
    if max(line.count(".") for line in text.split("\n")) > MAX_DOTS:
        raise ValueError(f"a line with more than {MAX_DOTS} dots")
    try:
        document = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    left: list[Any] = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("a number beyond 64 bits, which is all that TOML has")
    return document
