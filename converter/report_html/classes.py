"""How each class fares, and which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

from converter.figures import count_text, points_text
from converter.findings import ClassFinding
from converter.report_html.markup import Markup, join, measured, scrolling, tag

MAX_CLASSES = 40
"""Rows of the table of classes."""

MAX_HEAT = 24
"""Classes that a heat map can show; of more, the pairs that are confused most are listed."""

MAX_PAIRS = 20


def label_text(index: int, labels: Sequence[str]) -> str:
    """The class's name, or its number where it has none."""
    return labels[index] if 0 <= index < len(labels) and labels[index].strip() else str(index)


def table(variant: str, classes: Sequence[ClassFinding], labels: Sequence[str]) -> Markup:
    """Those that changed most, first."""
    with_labels = any(one.variant is not None for one in classes)
    ordered = sorted(classes, key=lambda one: (_change(one), one.agreement, one.label))
    heads = [("class", ""), ("samples", "n")]
    heads += [("original", "n"), (variant, "n"), ("change, points", "n")] if with_labels else []
    heads += [("answers that differ from the original's", "")]
    head = tag("thead", tag("tr", *(tag("th", text, scope="col", class_=kind or None) for text, kind in heads)))
    left = f" {len(ordered) - MAX_CLASSES} more are not shown." if ordered[MAX_CLASSES:] else ""
    what = "Accuracy by class; those that lost most come first." if with_labels else "By class; the most changed first."
    shown = ordered[:MAX_CLASSES]
    most = max((1 - one.agreement for one in shown), default=0.0)
    rows = [_row(one, labels, most, accuracy=with_labels) for one in shown]
    return scrolling(
        f"Classes of {variant}",
        tag("table", head, tag("tbody", *rows), class_="dense"),
        f"{what}{left}",
    )


def _change(one: ClassFinding) -> float:
    return (one.variant - one.original) if one.variant is not None and one.original is not None else 0.0


def _row(one: ClassFinding, labels: Sequence[str], most: float, *, accuracy: bool) -> Markup:
    cells = [tag("th", label_text(one.label, labels), scope="row"), tag("td", count_text(one.samples), class_="n")]
    if accuracy:
        change = _change(one) * 100
        cells += [
            tag("td", "" if one.original is None else f"{one.original:.1%}", class_="n"),
            tag("td", "" if one.variant is None else f"{one.variant:.1%}", class_="n"),
            tag("td", f"{'+' if change >= 0.005 else ''}{points_text(change)}", class_="n"),
        ]
    different = 1 - one.agreement
    return tag("tr", *cells, tag("td", measured(f"{different:.1%}", different / most if most > 0 else 0.0)))


def confusion(variant: str, counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    """Original's class against the variant's: a heat map, or the worst pairs where classes are many."""
    different = sum(count for row, one in enumerate(counts) for column, count in enumerate(one) if row != column)
    everything = sum(map(sum, counts))
    said = tag(
        "p",
        f"Where the original and {variant} name different classes: {different:,} of {everything:,} samples. "
        "Rows are the original's answers, columns the variant's.",
    )
    if not different:
        return tag("p", f"The original and {variant} name the same class for each of the {everything:,} samples.")
    return join((said, _heat(counts, labels) if len(counts) <= MAX_HEAT else _pairs(counts, labels)))


def _heat(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    names = [label_text(index, labels) for index in range(len(counts))]
    same = max(counts[index][index] for index in range(len(names)))
    other = max(count for row, one in enumerate(counts) for column, count in enumerate(one) if row != column)
    head = tag("thead", tag("tr", tag("td"), *(tag("th", tag("span", name), scope="col") for name in names)))
    rows = []
    for row, name in enumerate(names):
        cells = []
        for column, count in enumerate(counts[row]):
            step = _step(count, same if row == column else other)
            kind = f"{'b' if row == column else 'r'}{step}" if step else None
            cells.append(tag("td", str(count) if count else "", class_=kind))
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    table = tag("table", head, tag("tbody", *rows), class_="heat")
    return scrolling("Original against variant, counts of samples", table)


def _step(count: int, largest: int) -> int:
    """0 for none, 1 to 4 for the share of the largest count."""
    return 0 if count <= 0 else min(4, 1 + 4 * count // (largest + 1))


def _pairs(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    pairs = sorted(
        (-count, row, column)
        for row, one in enumerate(counts)
        for column, count in enumerate(one)
        if count and row != column
    )
    heads = ("original", "variant", "samples")
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads)))
    rows = [
        tag("tr", *(tag("td", label_text(index, labels)) for index in (row, column)), tag("td", str(-count)))
        for count, row, column in pairs[:MAX_PAIRS]
    ]
    left = f" {len(pairs) - MAX_PAIRS} more pairs are not shown." if pairs[MAX_PAIRS:] else ""
    caption = f"The pairs that differ most often.{left}"
    return scrolling("Classes that differ most often", tag("table", head, tag("tbody", *rows)), caption)
