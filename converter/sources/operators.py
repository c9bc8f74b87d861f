"""Operators of a model that LiteRT lacks: which, where they come from, and what could be done.

`unsupported` reads them from what TensorFlow's converter says when it fails; `check_operators` finds the hopeless ones
in a model's graph before anything is converted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from converter.sources.graphs import reached, serve_graph

Kind = Literal["flex", "custom"]

MAX_LAYERS_NAMED = 3
"""Of one operator, in a message; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class UnsupportedOperator:
    """An operator that LiteRT lacks.

    Attributes:
        name: TensorFlow's name for it, `MatrixDeterminant`.
        kind: `flex`: one of TensorFlow's own, for which LiteRT would need TensorFlow beside it; `custom`: anybody's.
        layers: The layers (name scopes) that it comes from, sorted; else its nodes' names; empty where unknown.
    """

    name: str
    kind: Kind
    layers: tuple[str, ...] = ()


_LISTED = re.compile(r"^(TF Select|Custom) ops: *(.+)$", re.MULTILINE)
_ILLEGAL = re.compile(r"failed to legalize operation 'tf\.(\w+)' that was explicitly marked illegal")
_NAMED_NODE = re.compile(r'"(\w+):", "([^"]*)"')
_CALL = re.compile(r"(?:Stateful|Stateless)?(?:PartitionedCall|While|If)(?:_\d+)?")
_ERROR = re.compile(r"^.*\berror: .*$", re.MULTILINE)


def unsupported(message: str) -> tuple[UnsupportedOperator, ...]:
    """The operators that a message of the converter says it could not translate, sorted; empty for another fault.

    The message lists names (`TF Select ops: A, B`), and has before that a line for each node, with its location:
    `loc(callsite(fused["A:", "layer/A@function"] at ...)): error: ...`, the innermost function first.
    """
    kinds: dict[str, Kind] = dict.fromkeys(_ILLEGAL.findall(message), "flex")
    for what, names in _LISTED.findall(message):
        for name in names.split(","):
            if name.strip():
                kinds[name.strip()] = "flex" if what == "TF Select" else "custom"
    layers: dict[str, set[str]] = {name: set() for name in kinds}
    for line in _ERROR.findall(message):
        nodes = _NAMED_NODE.findall(line)
        if nodes and nodes[0][0] in layers:
            layers[nodes[0][0]].add(_layer(nodes[0][0], [node.split("@", 1)[0] for _, node in nodes]))
    return tuple(
        UnsupportedOperator(name=name, kind=kind, layers=tuple(sorted(layers[name] - {""})))
        for name, kind in sorted(kinds.items())
    )


def _layer(operator: str, nodes: Sequence[str]) -> str:
    """The scope of the innermost node that has one; `nodes` from the innermost call to the outermost."""
    own = re.compile(rf"{re.escape(operator)}(?:_\d+)?")
    for node in nodes:
        parts = [part for part in node.split("/") if not own.fullmatch(part) and not _CALL.fullmatch(part)]
        if parts:
            return "/".join(parts)
    return nodes[0]


_ADVICE: tuple[tuple[str, str], ...] = (
    ("EagerPyFunc|PyFunc(Stateless)?", "rewrite the Python function with TensorFlow's operators"),
    (
        (
            "Matrix(Determinant|Inverse|Solve|TriangularSolve|SolveLs)|LogMatrixDeterminant|Cholesky|Qr|Svd|Eig|"
            "SelfAdjointEigV2|Lu"
        ),
        "write it out for the fixed small size with products and sums, or move it out of the model",
    ),
    ("PrintV2|StringFormat|Print", "export the model without tf.print"),
    (
        r"String\w*|Regex\w*|StaticRegex\w*|AsString|Substr|Unicode\w*|ReduceJoin|(En|De)codeBase64",
        "turn the text into numbers before the model, in the application, and feed it those",
    ),
    (
        r"Decode(Jpeg|Png|Image|AndCropJpeg|Gif|Bmp|Wav|Raw|CSV)|Encode(Jpeg|Png)|Parse(Single)?Example\w*|ReadFile",
        "feed the decoded values to the model; preprocess.toml can decode on the device",
    ),
    (r"CropAndResize\w*", "cut fixed boxes by slicing, and resize them with tf.image.resize"),
    (r"(Combined)?NonMaxSuppression\w*", "use tf.image.non_max_suppression on one image, or do it behind the model"),
    ("Resize(Bicubic|Area)|ScaleAndTranslate", "resize bilinearly without antialias, or before the model"),
    (r"Adjust\w+|RGBToHSV|HSVToRGB|ExtractGlimpse\w*", "do it before the model, in the application"),
    ("ExtractImagePatches", "use a convolution with a fixed kernel of ones and zeros"),
    (r"Ragged\w+|Sparse\w+", "use dense tensors, padded to a fixed length"),
    (r"I?R?FFT[23]?D?|BatchI?FFT\w*", "of Fourier transforms only those of real values convert (tf.signal.rfft, stft)"),
    (r"(Stateless|Parameterized)\w*", "draw random numbers outside the model and feed them in"),
    (r"TensorList\w*|TensorArray\w*", "fix the batch and the number of steps (--shape), or unroll the loop over steps"),
    (r"(Mutable|Anonymous)\w*Table\w*|LookupTable(Insert|Remove|Export)\w*", "use a tf.lookup.StaticHashTable"),
    ("Erfc?", "use the tanh form of GELU (approximate=True), or another activation"),
    ("(Dense)?Bincount", "sum one-hot rows in its place"),
    ("LowerBound|UpperBound|Bucketize", "compare with each bound and sum in its place"),
    ("Roll", "join two slices in its place"),
    ("Cumprod", "take the exponential of a cumulative sum of logarithms in its place"),
    (r"Assign\w*|(Queue|Stack|Iterator)\w*|\w*Dataset\w*", "export the model for inference only"),
)
"""By TensorFlow's name, a regular expression for the whole of it; what TensorFlow 2.21 really refuses."""


def advice(operator: UnsupportedOperator) -> str:
    """What could be done about it, in a few words."""
    for pattern, says in _ADVICE:
        if re.fullmatch(pattern, operator.name):
            return says
    return "write it with operators that LiteRT has, or move it out of the model"


def describe(operators: Iterable[UnsupportedOperator]) -> str:
    """One line: each operator, where it comes from, and what could be done."""
    return "LiteRT lacks operators of this model: " + "; ".join(
        f"{one.name}{_places(one.layers)}: {advice(one)}" for one in operators
    )


def _places(layers: Sequence[str]) -> str:
    if not layers:
        return ""
    more = len(layers) - MAX_LAYERS_NAMED
    named = ", ".join(layers[:MAX_LAYERS_NAMED])
    return f" (in {named}, and {more} more)" if more > 0 else f" (in {named})"


_PYTHON = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})


def check_graph(path: Path, signatures: Iterable[str]) -> tuple[UnsupportedOperator, ...]:
    """The operators of a SavedModel that can't be lowered whatever is done: calls of Python, and strangers' own.

    Only what the signatures run counts. Anything else is left to the converter, which often finds another form or
    folds an operator away. Loads TensorFlow, for its list of operators.
    """
    from tensorflow.python.framework import op_def_registry  # noqa: PLC0415  only in a child

    graph = serve_graph(path)
    known = {function.signature.name for function in graph.graph_def.library.function}
    layers: dict[str, set[str]] = {}
    for one in reached(graph, signatures):
        name = one.node.op
        if name in _PYTHON or (name not in known and op_def_registry.get(name) is None):
            nodes = [one.node.name, *reversed(one.callers)]
            layers.setdefault(name, set()).add(_layer(name, nodes))
    return tuple(
        UnsupportedOperator(name=name, kind="custom", layers=tuple(sorted(found)))
        for name, found in sorted(layers.items())
    )
