"""Metrics that are asked for by name, as `--metric output=topk:5`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from converter.errors import OptionInvalid
from converter.metrics.plan import DEFAULT_THRESHOLD
from converter.named_functions import is_named

KNOWN = (
    "top1",
    "topk:K",
    "recall@T",
    "precision@T",
    "f1@T",
    "iou",
    "iou@T",
    "rmse",
    "sqnr",
    "cosine",
    "equal",
    "agreement",
    "module:function",
)

_PLAIN = ("top1", "agreement", "rmse", "sqnr", "cosine", "equal")
_CELLS = ("recall", "precision", "f1", "iou")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:e-?\d+)?")
_TAKEN = frozenset(
    {"accuracy", "top1_agreement", "rmse", "relative_rmse", "sqnr_db", "precision", "recall", "f1", "iou"}
    | {"cosine", "equal"}
)
"""Names of metrics that no function may have as its own."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One metric that was asked for.

    Attributes:
        name: `top1`, `topk`, `agreement`, `recall`, `precision`, `f1`, `iou`, `rmse`, `sqnr`, `cosine`, `equal` or
            `function`.
        top_k: Of `topk`.
        threshold: Of those that count cells.
        function: `module:function`.
    """

    name: str
    top_k: int = 0
    threshold: float = DEFAULT_THRESHOLD
    function: str = ""

    @property
    def function_name(self) -> str:
        """What the function's metric is called: by its own name, in full where another metric is called so."""
        short = self.function.rpartition(":")[2].rpartition(".")[2]
        return self.function if short in _TAKEN or short.startswith("top") else short


def parse_request(text: str) -> Request:
    """`topk:5` and the like.

    Raises:
        OptionInvalid: no known metric (they are listed), or K is not a positive integer, or T no number.
    """
    asked = text.strip()
    if asked in _PLAIN:
        return Request(name=asked)
    name, colon, argument = asked.partition(":")
    if name == "topk" and colon:
        if not re.fullmatch(r"[1-9]\d{0,8}", argument):
            raise OptionInvalid(f"metric {text!r}: K must be a positive integer, as in topk:5")
        return Request(name=name, top_k=int(argument))
    name, at, argument = asked.partition("@")
    if name in _CELLS and (at or name == "iou"):
        if at and not _NUMBER.fullmatch(argument):
            raise OptionInvalid(f"metric {text!r}: T must be a number, as in {name}@0.5")
        return Request(name=name, threshold=float(argument) if at else DEFAULT_THRESHOLD)
    if is_named(asked):
        return Request(name="function", function=asked)
    raise OptionInvalid(f"metric {text!r} is not known; known are {', '.join(KNOWN)}")
