"""Which version a request of the Open Inference Protocol means, and numbers that are written as text."""

from __future__ import annotations

from fallback_server.core.errors import InvalidInput
from fallback_server.core.target import ModelTarget

MAX_VERSION = 2**63 - 1

_MAX_DIGITS = 19


def natural_number(text: str) -> int | None:
    """A number from its decimal digits; None where it is larger than `MAX_VERSION`.

    Args:
        text: ASCII digits, of any length: Python itself refuses to read thousands of them.
    """
    digits = text.lstrip("0") or "0"
    if len(digits) > _MAX_DIGITS:
        return None
    number = int(digits)
    return number if number <= MAX_VERSION else None


def read_target(name: str, version: str) -> ModelTarget:
    """Which version a request means: none, a number, or, as the protocol has no other place for it, a label.

    Raises:
        InvalidInput: there is no name, or the version is no int64.
    """
    if not name:
        raise InvalidInput("the request has no model name")
    if not (version.isascii() and version.isdecimal()):
        return ModelTarget(name=name, label=version or None)
    number = natural_number(version)
    if number is None:
        raise InvalidInput(f"version {version} is larger than {MAX_VERSION}")
    return ModelTarget(name=name, version=number)
