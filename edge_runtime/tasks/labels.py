"""Label files as the models of the Edge TPU's world bring them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edge_runtime.errors import InvalidInput

MAX_LABELS_BYTES = 4 * 2**20
"""Names of classes; the largest vocabularies take a tenth of it."""


def read_labels(path: str | os.PathLike[str]) -> dict[int, str]:
    """The labels by class id: a line each, as `3 cat`, `3: cat`, or `cat` alone, whose id is the line's number from 0.

    Empty lines name nothing, and count.

    Raises:
        InvalidInput: it can't be read, is too large or no UTF-8.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_LABELS_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{file}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: labels must be UTF-8: {error}") from error
    if len(content) > MAX_LABELS_BYTES:
        raise InvalidInput(f"{file}: at most {MAX_LABELS_BYTES} bytes of labels are read")
    found: dict[int, str] = {}
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        numbered = re.fullmatch(r"\s*([0-9]{1,9})(?:\s*:\s*|\s+)(\S.*)", line)
        key, name = (int(numbered[1]), numbered[2]) if numbered else (number, line)
        found[key] = name.strip()
    return found
