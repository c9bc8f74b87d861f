"""Finds the custom layers and functions of a Keras model: `module:name`, in a module of the user's."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from converter.errors import OptionInvalid


def load(spec: str) -> dict[str, Any]:
    """By name, the objects of `module:name`; none for an empty text.

    The module is looked for in the current directory too. Importing it runs it, so this belongs in a child process.

    Args:
        spec: `name` is a dict of objects by name, or one class or function, which then goes by its own name.

    Raises:
        OptionInvalid: the text has another form, the module can't be imported, or there is no such name in it, or it
            is no dict, class or function.
    """
    if not spec:
        return {}
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise OptionInvalid(f"custom objects: {spec!r} is not of the form module:name")
    try:
        found = getattr(_import(module_name), name)
    except AttributeError as error:
        raise OptionInvalid(f"custom objects: {spec!r}: module {module_name!r} has no {name!r}") from error
    if isinstance(found, dict):
        return dict(found)
    if not callable(found) or not hasattr(found, "__name__"):
        raise OptionInvalid(f"custom objects: {spec!r} is {type(found).__name__}; a dict, class or function is needed")
    return {found.__name__: found}


def _import(name: str) -> Any:
    here = os.getcwd()  # noqa: PTH109  entries of sys.path are texts
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise OptionInvalid(
            f"custom objects: module {name!r} can't be imported: {type(error).__name__}: {error}"
        ) from error
