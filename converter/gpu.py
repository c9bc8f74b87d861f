"""What LiteRT's GPU delegate would do with a TFLite file. Loads TensorFlow: only in a child process."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from converter.findings import GpuReport
from converter.graph import Graph, read
from devices.operators import GPU_CUSTOM_OPERATORS, GPU_OPERATORS

MAX_PROBLEMS = 100
"""A line an operator; of a model with more of them, the first tell enough."""

_WARNING = "GPU COMPATIBILITY WARNING: "
_OPERATOR = re.compile(r"^\s*Op#(\d+) (\w+)\(")


def report(file: Path) -> GpuReport:
    """What TensorFlow Lite's analyzer says, and what the list of the delegate's operators adds.

    The analyzer of some builds (TensorFlow 2.21's wheels among them) has the check compiled out and finds nothing
    wrong with any model; so the operators are held against the delegate's list as well.

    Raises:
        SourceInvalid: it is no TFLite file, or a damaged one.
    """
    graph = read(file)  # The analyzer verifies nothing: a damaged file could end the process.
    problems = problems_in(_analysis(file)) or unlisted(graph)
    return GpuReport(compatible=not problems, problems=tuple(problems[:MAX_PROBLEMS]))


def _analysis(file: Path) -> str:
    import tensorflow as tf  # noqa: PLC0415  only in a child

    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        tf.lite.experimental.Analyzer.analyze(model_path=str(file), gpu_compatibility=True)
    return output.getvalue()


def problems_in(text: str) -> list[str]:
    """The analyzer's warnings, each with the operator that it stands behind."""
    found, operator = [], ""
    for line in text.splitlines():
        if match := _OPERATOR.match(line):
            operator = f"operator {match[1]}, {match[2]}: "
        elif line.startswith(_WARNING) and not line.startswith(f"{_WARNING}Subgraph#"):
            found.append(f"{operator}{line.removeprefix(_WARNING).strip()}")
    return found


def unlisted(graph: Graph) -> list[str]:
    """The operators that the delegate does not take at all."""
    return [
        f"operator {one.index}, {one.name}: not among the operators that the GPU delegate takes"
        for one in graph.operators
        if one.name not in (GPU_CUSTOM_OPERATORS if one.custom else GPU_OPERATORS)
    ]
