"""What a primary metric lost, in percentage points, as the budget counts.

| metric | points lost | of |
|---|---|---|
| accuracy, topK_accuracy | 100 (original - variant); a gain is negative | 100 original |
| top1_agreement, topK_agreement, precision, recall, f1, cosine, iou, equal | 100 (1 - x) | 100 |
| relative_rmse | 100 relative_rmse | 100 |
| sqnr_db | 100 * 10^(-sqnr_db / 20), the error's amplitude in percent of the signal's | 100 |
| a function f | 100 (f(original, original) - f(original, variant)) | 100 f(original, original) |
"""

from __future__ import annotations

from collections.abc import Mapping

from converter.metrics.formulas import rounded


def loss_points(primary: str, found: Mapping[str, float], original: Mapping[str, float]) -> tuple[float, float]:
    """The loss and what it is a loss of, by the table above.

    Args:
        primary: The metric's name.
        found: The variant's metrics, the primary one among them.
        original: The original's own: the primary one is among them where it compares with labels or is a function.
    """
    value = found[primary]
    if primary in original:
        return _points(original[primary] - value), rounded(100.0 * original[primary])
    if primary == "relative_rmse":
        return _points(value), 100.0
    if primary == "sqnr_db":
        return _points(10.0 ** (-value / 20.0)), 100.0
    return _points(1.0 - value), 100.0


def _points(share: float) -> float:
    # Past the sixth digit a difference of two rounded shares is noise.
    return rounded(round(100.0 * share, 6)) + 0.0
