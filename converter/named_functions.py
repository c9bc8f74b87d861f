"""Functions of the user's own code, named as `module:function`. Loading one runs that code: only in a child process."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converter.errors import OptionInvalid

_NAMED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def is_named(text: str) -> bool:
    """Whether the text has the form `module:function`."""
    return _NAMED.fullmatch(text) is not None


def load_named(text: str) -> Callable[..., Any]:
    """The function that the text names, looked for in the current directory first.

    Raises:
        OptionInvalid: it is not of that form, the module can't be imported, has no such name, or that is no function.
    """
    if not is_named(text):
        raise OptionInvalid(f"{text!r} is not of the form module:function")
    module_name, _, path = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise OptionInvalid(f"{text}: module {module_name!r} can't be imported: {_told(error)}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise OptionInvalid(f"{text}: module {module_name!r} has no {path!r}")
        found = getattr(found, part)
    if not callable(found):
        raise OptionInvalid(f"{text}: {path!r} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def _told(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"
