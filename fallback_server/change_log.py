"""What the log says of those who change what is served."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from fallback_server.core.errors import ServerError
from fallback_server.core.model_config import ModelConfig
from fallback_server.core.printable import printable

_log = logging.getLogger(__name__)

_NAMED = 20
"""Of models that were added, removed or changed: a configuration may have thousands."""

_TEXT_CHARS = 500


def told(level: int, text: str, who: str) -> None:
    """Logs what was done, on one line, and for whom.

    Args:
        level: As `logging` has them.
        text: What; it may repeat names that a caller made.
        who: The caller's address; empty where nobody asked from outside.
    """
    line = printable(text, max_chars=_TEXT_CHARS).replace("\n", "\\n").replace("\t", "\\t")
    _log.log(level, "%s%s", line, f" (asked for by {who})" if who else "")


@contextlib.contextmanager
def refusals_told(what: str, who: str) -> Iterator[None]:
    """Logs a refusal of what is done in here, and why, where somebody outside asked; it goes on to the caller."""
    try:
        yield
    except ServerError as error:
        if who:
            told(logging.WARNING, f"{what}: refused: {error}", who)
        raise


def difference(before: Mapping[str, ModelConfig], after: Sequence[ModelConfig]) -> str:
    """What a configuration changes. Pure.

    Args:
        before: By name.
        after: The complete set.
    """
    now = {config.name: config for config in after}
    changed = {name: _parts(before[name], now[name]) for name in now.keys() & before.keys()}
    groups = {
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
        "changed": [f"{name} ({', '.join(parts)})" for name, parts in sorted(changed.items()) if parts],
    }
    return "; ".join(f"{what} {_list(names)}" for what, names in groups.items() if names) or "nothing has changed"


def _parts(before: ModelConfig, after: ModelConfig) -> list[str]:
    names = [field.name for field in fields(ModelConfig)]
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
