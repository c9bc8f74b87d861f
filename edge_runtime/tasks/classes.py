"""Classification: the best classes of a row of scores."""

from __future__ import annotations

import math
from typing import NamedTuple

from converter.artifact import Signature
from edge_runtime.errors import InvalidInput
from edge_runtime.tasks.answers import (
    Answer,
    Labels,
    chosen,
    count_of,
    label_of,
    limit_of,
    ranked,
    reals,
    row_of,
    shaped,
)


class Class(NamedTuple):
    """A class that was found.

    Attributes:
        id: Its index in the output's last axis.
        score: What the model says of it, in the model's own terms (a probability, a logit).
        label: Its name; empty where no labels were given.
    """

    id: int
    score: float
    label: str = ""


def classify(
    answer: Answer,
    *,
    top_k: int | None = None,
    score_threshold: float = -math.inf,
    labels: Labels | None = None,
    output: str | None = None,
    row: int | None = None,
    signature: Signature | None = None,
) -> list[Class]:
    """The classes of one row, the best score first; of equal scores the lower id.

    Args:
        answer: Scores [N, C], or [N, 1, ..., C] as some models have it.
        top_k: At most so many; None for all.
        score_threshold: Classes with a lower score are left out, and those whose score is no number.
        labels: The classes' names by id.
        output: The output's name, where there are several.
        row: Which row, where there are several.
        signature: What the outputs of a bare quantized file stand for.

    Raises:
        InvalidInput: there are no such scores in the answer, and the text says what there is; or an option is none.
    """
    top_k = None if top_k is None else count_of("top_k", top_k)
    score_threshold = limit_of("score_threshold", score_threshold)
    name, array = chosen(answer, output)
    one = row_of(name, array, row)
    if one.ndim == 0 or one.size != one.shape[-1]:
        raise InvalidInput(f"output {name!r} {shaped(array)}: scores [N, C] are needed")
    scores = reals(name, one, signature).reshape(-1)
    order = ranked(scores)
    best = order[scores[order] >= score_threshold][:top_k]
    return [Class(int(index), float(scores[index]), label_of(labels, int(index))) for index in best]
