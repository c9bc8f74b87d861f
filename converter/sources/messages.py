"""TensorFlow's errors in one line."""

from __future__ import annotations

_EMPTY = ("Graph execution error:", "Detected at node", "<stack traces unavailable>", "Traceback", 'File "', "node ")


def said(error: Exception) -> str:
    """The exception's type, and the first line of its text that says what is wrong."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    telling = [line for line in lines if not line.startswith(_EMPTY)]
    return f"{type(error).__name__}: {(telling or lines or ['no reason given'])[0]}"
