"""Figures as people read them: sizes, times, metrics. The same in the terminal and in the HTML report."""

from __future__ import annotations

import re

_HEADINGS = {
    "accuracy": "accuracy",
    "top1_agreement": "agreement",
    "sqnr_db": "SQNR",
    "rmse": "RMSE",
    "relative_rmse": "relative RMSE",
    "iou": "IoU",
    "f1": "F1",
}

_ORDER = (
    "accuracy",
    "top1_agreement",
    "precision",
    "recall",
    "f1",
    "iou",
    "equal",
    "cosine",
    "relative_rmse",
    "sqnr_db",
    "rmse",
)

_SHARES = re.compile(
    r"accuracy|top1_agreement|top\d+_(?:accuracy|agreement)|precision|recall|f1|iou|equal|relative_rmse"
)
"""Metrics that are shares, 0..1, and shown in percent."""


def size_text(size_bytes: int) -> str:
    """1234 -> `1.2 kB`, in powers of ten as disks and networks are."""
    size, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 1_000:
            break
        size, unit = size / 1_000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def time_text(value_us: float) -> str:
    """1234.5 -> `1.23 ms`: microseconds, in the unit that needs no exponent, three digits."""
    value, unit = value_us, "\N{MICRO SIGN}s"
    for larger in ("ms", "s"):
        if value < 999.5:
            break
        value, unit = value / 1_000, larger
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"


def metric_heading(name: str) -> str:
    """`top1_agreement` -> `agreement`; a name that is not known stays as it is, but for underscores."""
    return _HEADINGS.get(name, name.replace("_", " "))


def metric_text(name: str, value: float | None) -> str:
    """In percent where it is a share, in dB where the name says so, else in three digits; empty for None."""
    if value is None:
        return ""
    if name.endswith("_db"):
        return f"{value:.1f} dB"
    if name == "cosine":
        return f"{value:.4f}"
    return f"{value:.2%}" if _SHARES.fullmatch(name) else f"{value:.3g}"


def in_order(names: set[str]) -> list[str]:
    """What people look for first comes first, then by name."""
    return sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else 5, name))


def points_text(points: float) -> str:
    """Percentage points with two digits, and never `-0.00`."""
    return f"{round(points, 2) + 0.0:.2f}"


def factor_text(factor: float) -> str:
    """4.13 -> `4.1x`, 12.7 -> `13x`."""
    return f"{factor:.1f}x" if factor < 9.95 else f"{factor:.0f}x"


def count_text(count: int, noun: str = "") -> str:
    """1 and 12345 samples -> `1 sample`, `12,345 samples`."""
    return f"{count:,}{f' {noun}' if noun else ''}{'s' if noun and count != 1 else ''}"
