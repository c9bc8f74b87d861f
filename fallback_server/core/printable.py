"""Text of unknown origin as it may go into a message, a log and a reply: encodable, in bounds, with nothing hidden.

Names of files are bytes, of which Python makes half surrogate pairs where they are no UTF-8: no rim could encode those.
"""

from __future__ import annotations

import os
import unicodedata

MAX_CHARS = 1000
"""Of an error's text."""

MAX_NAME_BYTES = 255
"""Of a model's name that is a folder's."""

_QUOTED_CHARS = 100
_CAUSE_CHARS = 300
_KEPT = "\n\t"
_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, surrogates, and what else ends a line (Unicode's general categories)."""


def printable(text: str, *, max_chars: int = MAX_CHARS) -> str:
    """A text without control characters and surrogates, cut in its middle where it is longer than it may be.

    Line ends and tabs stay: TensorFlow's messages have several lines.
    """
    if len(text) > max_chars:
        mark = f" ... {len(text)} characters ... "
        head = max(0, max_chars - len(mark)) * 3 // 4
        tail = max(0, max_chars - len(mark) - head)
        text = text[:head] + mark + text[len(text) - tail :]
    if text.isprintable():
        return text
    return "".join(
        _escaped(each) if each not in _KEPT and unicodedata.category(each) in _HIDDEN else each for each in text
    )


def quoted(name: str) -> str:
    """A name in quotation marks, on one line, and cut where it is long."""
    if len(name) <= _QUOTED_CHARS:
        return repr(name)
    return f"{name[:_QUOTED_CHARS]!r}... of {len(name)} characters"


def cause(error: Exception) -> str:
    """What a library or the file system says of a name or a file: it may repeat whole names."""
    return printable(str(error), max_chars=_CAUSE_CHARS)


def name_fault(name: str) -> str | None:
    """Why a folder's name can't be a model's; None where it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "is no UTF-8"
    if any(unicodedata.category(each) in _HIDDEN for each in name):
        return "has control characters"
    size_bytes = len(os.fsencode(name))
    return f"has {size_bytes} bytes; at most {MAX_NAME_BYTES} are allowed" if size_bytes > MAX_NAME_BYTES else None


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
