"""What a variant's outputs lost against the original's, sample by sample, in bounded memory.

What is measured of an output depends on what it is (`kinds`), and can be asked for otherwise (`requests`).

Of class scores, [samples, classes], and of the probability of one class, [samples] or [samples, 1], with labels 0, 1:
- `top1_agreement`: share of samples whose largest score is at the original's place.
- `accuracy`: share of samples whose largest score is at the label's place, of the one output that the labels are
  classes of (`labelling`).
- `topK_accuracy`, where it was asked for: share of samples whose label is among the K largest scores; without labels
  `topK_agreement`, likewise for the original's best.

Of thresholded maps, where a cell counts that is above the threshold, and the original says which ones are to count:
- `precision`: share of the variant's cells that are the original's too; 1 where it has none.
- `recall`: share of the original's cells that are the variant's too; 1 where there are none.
- `f1`: 2 TP / (2 TP + FP + FN), the harmonic mean of both.
- `iou`, where it was asked for: TP / (TP + FP + FN).
Plain agreement of cells is left out: where one cell in a hundred counts, it reads 99 % when all of them are gone.

Of all floats:
- `rmse`: root of the mean squared difference, in the output's own unit.
- `sqnr_db`: 10 log10(sum of original^2 / sum of difference^2), within -200 to 200: JSON has no infinity, and beyond
  200 dB two float32 arrays are equal. Of an original that is zero throughout, against ones.
- `relative_rmse`, of regressions: rmse / standard deviation of the original's values, at most 1e6. Where that is less
  than a thousandth of the values' root mean square, the original is as good as constant, and the latter stands in for
  it: a rounding of a constant is no loss. Of an original that is zero throughout, rmse / 1.
- `cosine`, where it was asked for: mean over the samples of the cosine between both, each as one long vector.

Of integers (class ids, token ids; the difference of two ids means nothing) and strings:
- `equal`: share of values that are the original's.
- `iou`, where it was asked for, of integers: TP / (TP + FP + FN) for each class that either has, then their mean.

The primary metric is the one that the budget is about: `accuracy`, without labels `top1_agreement`; `f1`;
`relative_rmse`; `equal`; or what was asked for. Its loss is counted in percentage points (`loss`).
"""

from converter.metrics.comparison import Comparison
from converter.metrics.formulas import SQNR_LIMIT_DB, accuracy, rounded, sqnr_db
from converter.metrics.kinds import make_plans
from converter.metrics.plan import Plan
from converter.metrics.requests import parse_request

__all__ = [
    "SQNR_LIMIT_DB",
    "Comparison",
    "Plan",
    "accuracy",
    "make_plans",
    "parse_request",
    "rounded",
    "sqnr_db",
]
