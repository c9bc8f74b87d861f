"""HTML that can't be broken by what stands in it: strings are escaped, unless they were made here."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable

MAX_TEXT = 300
"""Characters of one name or message; a longer one is cut."""

_VOID = frozenset({"meta", "img", "br"})

_HIDDEN = frozenset({"Cc", "Cf", "Cs"})
"""Unicode's control, format (text direction among them) and surrogate characters: they change how a page reads."""

_JOINERS = "\u200c\u200d"
"""Of the format characters, the two that words and emoji are written with."""


class Markup(str):
    """HTML that is safe to stand in a page as it is."""

    __slots__ = ()


Child = str | Markup | None

Value = str | float | bool | None


def clean(text: str) -> str:
    """The text without characters that would change how others are shown, on one line, cut where it is too long."""
    line = shortened(" ".join(text.split()), MAX_TEXT)
    return "".join("\N{REPLACEMENT CHARACTER}" if _hidden(one) else one for one in line)


def shortened(text: str, characters: int) -> str:
    """The text, cut and with an ellipsis where it is longer than that."""
    return text if len(text) <= characters else f"{text[:characters]}…"


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN and character not in _JOINERS


def escaped(child: Child) -> Markup:
    """The child as HTML; None is nothing."""
    if child is None:
        return Markup()
    return child if isinstance(child, Markup) else Markup(html.escape(clean(child), quote=True))


def join(children: Iterable[Child], separator: str = "") -> Markup:
    """The children one after another."""
    return Markup(separator.join(escaped(child) for child in children))


def sentence(*children: Child) -> Markup:
    """Words and tags with a space between them; what is nothing is left out."""
    return join((child for child in children if child), " ")


def tag(element: str, /, *children: Child, **attributes: Value) -> Markup:
    """One element.

    Args:
        element: `p`, `td`...
        children: What it holds; strings are escaped.
        attributes: A trailing underscore is dropped (`class_`), others become hyphens (`aria_label`). None and False
            are left out, True is an attribute without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if element in _VOID:
        return Markup(f"<{element}{written}>")
    return Markup(f"<{element}{written}>{join(children)}</{element}>")


def _attribute(key: str, value: Value) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(text if isinstance(value, Markup) else clean(text), quote=True)}"'


def scrolling(label: str, table: Markup, caption: str = "") -> Markup:
    """A wide table scrolls in its own box, which the keyboard can reach, and never moves the page.

    Its caption stands above the box, where it is as wide as the page and not as the table.
    """
    said = tag("p", caption, class_="caption") if caption else None
    return join((said, tag("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")))


def bar(share: float, *, kind: str = "") -> Markup:
    """A horizontal bar, 0..1 of its place; the figure stands beside it, so that it is hidden from screen readers."""
    width = Markup(f"width:{max(0.0, min(1.0, share)) * 100:.1f}%")
    return tag("span", tag("span", class_=f"fill {kind}".strip(), style=width), class_="bar", aria_hidden="true")


def measured(text: str, share: float, *, kind: str = "") -> Markup:
    """A figure with its bar."""
    return tag("div", tag("span", text), bar(share, kind=kind), class_="measure")
