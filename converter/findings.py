"""What a conversion finds out about its variants: the shared nouns of evaluation, search, choice and report.

All of it is reproducible (no times in it) and lies in the package as `evaluation.json`; times of this machine are in
`result.Latency`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from converter.artifact import Cascade

OutputKind = Literal["scores", "map", "regression", "classes", "other"]
"""What an output is, see `metrics.kinds`."""


class ClassFinding(msgspec.Struct, frozen=True, kw_only=True):
    """How one class of a classifier fares.

    Attributes:
        label: Its index.
        samples: How many samples have it as label, or, without labels, as the original's answer.
        original: The original's accuracy on them, 0..1; None without labels.
        variant: The variant's; None without labels.
        agreement: Share of them in which both say the same class.
    """

    label: int
    samples: int
    original: float | None
    variant: float | None
    agreement: float


class WorstSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample of the evaluation data on which a variant is far off.

    Attributes:
        sample: Its index in the data.
        error: How far, root of the mean squared difference over this sample's output.
        original: The original's answer in few words: a class and its score, or some values.
        variant: The variant's.
    """

    sample: int
    error: float
    original: str
    variant: str


class OutputFindings(msgspec.Struct, frozen=True, kw_only=True):
    """One output of one variant against the original's.

    Attributes:
        kind: What the output is taken for.
        primary: The metric that the budget is about.
        loss_points: What the primary metric lost, in percentage points, as the budget counts; None where nothing was
            measured on evaluation data.
        reference_points: What the loss is a loss of: the original's own primary metric in percent (100 where the
            metric compares with the original itself), for budgets relative to it.
        classes: By label, for outputs that are class scores.
        confusion: [original's class][variant's class], counts; empty where there are too many classes.
        worst: At most ten, the worst first.
    """

    kind: OutputKind
    primary: str
    loss_points: float | None = None
    reference_points: float = 100.0
    classes: tuple[ClassFinding, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    worst: tuple[WorstSample, ...] = ()


class LayerError(msgspec.Struct, frozen=True, kw_only=True):
    """What quantizing one operator costs, seen by itself: with it alone in int8, and all before it in float.

    Attributes:
        name: The name of its output tensor in the float32 TFLite file.
        operator: `CONV_2D`...
        sqnr_db: Of its output against the float model's, averaged over the channels: in a tensor with one loud
            channel all others can be lost while the plain ratio reads 40 dB. 0 where nothing is left of it.
        rmse_per_scale: Root mean squared error in quantization steps; 1/sqrt(12) = 0.29 is the rounding of the
            output alone; what is not finite in float is left out.
        kept_float: Whether the mixed variant leaves it in float.
    """

    name: str
    operator: str
    sqnr_db: float
    rmse_per_scale: float
    kept_float: bool = False


class OperatorMapping(msgspec.Struct, frozen=True, kw_only=True):
    """Where one operator of a TFLite file runs.

    Attributes:
        index: Its place in the order of execution.
        operator: `CONV_2D`...
        name: The name of its (first) output tensor.
        mapped: Whether the accelerator takes it.
        reason: Why not; empty where it does.
        macs: Multiply-accumulates for one sample; 0 for operators without.
    """

    index: int
    operator: str
    name: str
    mapped: bool
    reason: str = ""
    macs: int = 0


class EdgeTpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an Edge TPU would do with a file.

    Attributes:
        by: `rules`: foretold from the published operator table; `compiler`: read from edgetpu_compiler's own log.
        operators: All of them, in order.
        first_unmapped: Index of the first one that the Edge TPU does not take: it and all after it run on the CPU.
        macs_mapped: Share of the multiply-accumulates that run on the Edge TPU, 0..1.
        parameter_bytes: Of the mapped part.
        cache_bytes: The on-chip memory; what does not fit is streamed at every inference.
        blockers: What keeps the file off the Edge TPU as a whole, a sentence each (float tensors, dynamic sizes).
    """

    by: Literal["rules", "compiler"]
    operators: tuple[OperatorMapping, ...]
    first_unmapped: int | None
    macs_mapped: float
    parameter_bytes: int
    cache_bytes: int
    blockers: tuple[str, ...] = ()


class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """What LiteRT's GPU delegate would do with a file.

    By TensorFlow Lite's analyzer, and by the delegate's list of operators where the analyzer has nothing to say.

    Attributes:
        compatible: Whether it takes all of it, as far as that can be foretold.
        problems: What is not taken, a line each.
    """

    compatible: bool
    problems: tuple[str, ...] = ()


class VariantFindings(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found out about one variant.

    Attributes:
        outputs: By output name.
        layers: The cost of quantizing each operator; of int8 and mixed variants, where it was asked. The worst first,
            which is the order in which the search tries them.
        edge_tpu: Of full int8 variants.
        gpu: Where it was asked.
        cascade: From what confidence on its answers can stand; of classifiers with labelled evaluation data.
    """

    outputs: dict[str, OutputFindings] = {}
    layers: tuple[LayerError, ...] = ()
    edge_tpu: EdgeTpuReport | None = None
    gpu: GpuReport | None = None
    cascade: Cascade | None = None


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What `evaluation.json` in a package holds.

    Attributes:
        variants: By variant name; also those that are not in the package, so that a choice can be followed.
        budget: In words, what a variant may lose: "0.5 points".
        notes: What the user should know, a sentence each.
    """

    variants: dict[str, VariantFindings] = {}
    budget: str = ""
    notes: tuple[str, ...] = ()


FINDINGS_FILE = "evaluation.json"


def encode(findings: Findings) -> bytes:
    """Canonical JSON, the same bytes for the same findings."""
    return msgspec.json.format(msgspec.json.encode(findings, order="sorted"), indent=1) + b"\n"


def decode(data: bytes) -> Findings:
    """The findings in `data`; msgspec.DecodeError or ValidationError if they are none."""
    return msgspec.json.decode(data, type=Findings)
