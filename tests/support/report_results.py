"""Results and findings for reports, as conversions give them: a good one, one that fits nothing, a hostile one."""

import io

import numpy as np

from converter.artifact import Latency
from converter.findings import (
    ClassFinding,
    EdgeTpuReport,
    Findings,
    GpuReport,
    LayerError,
    OperatorMapping,
    OutputFindings,
    VariantFindings,
    WorstSample,
)
from converter.result import PackageResult, VariantResult

LABELS = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x00" + "x" * 400

_VARIANTS = {  # bytes, accuracy, agreement, SQNR, loss in points, median with one thread in us
    "float32": (1_242_816, 0.9133, 1.0, 131.2, 0.0, 412.0),
    "float16": (625_420, 0.9133, 1.0, 66.1, 0.0, 419.0),
    "dynamic": (320_104, 0.9128, 0.9961, 38.8, 0.05, 260.0),
    "int8": (318_744, 0.9121, 0.9912, 33.0, 0.12, 178.0),
    "int8-float-io": (319_010, 0.9119, 0.9909, 32.8, 0.14, 181.0),
    "int16x8": (331_870, 0.9132, 0.9993, 58.7, 0.01, 1_905.0),
    "weights4": (168_300, 0.8420, 0.8811, 14.2, 7.13, 268.0),
    "mixed": (402_560, 0.9131, 0.9972, 41.0, 0.02, 236.0),
}
OPERATORS = ("QUANTIZE", *("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D") * 6, "MEAN", "FULLY_CONNECTED", "SOFTMAX")


def good(*, output="scores", labels=10):
    """A result with everything in it, and its findings."""
    rng = np.random.default_rng(5)
    variants = [
        VariantResult(
            name=name,
            status="ok",
            size_bytes=size,
            metrics={output: {"accuracy": accuracy, "top1_agreement": agreement, "sqnr_db": sqnr, "rmse": 0.0031}},
            latency=tuple(
                Latency(threads=n, median_us=us / n**0.6, p90_us=us / n**0.6 * 1.2, runs=900) for n in (1, 4)
            ),
            bench=(Latency(threads=4, median_us=us * 3.1, p90_us=us * 3.3, runs=300),) if "16" not in name else (),
        )
        for name, (size, accuracy, agreement, sqnr, _, us) in _VARIANTS.items()
    ]
    variants.append(
        VariantResult(
            name="int8-edgetpu",
            status="refused",
            error="edgetpu_compiler was not found: an x86-64 program that Coral gives out; see --edgetpu-compiler",
        )
    )
    result = PackageResult(
        package="packages/fashion/3",
        name="fashion",
        version=3,
        chosen={"default": "int8", "raspberry-pi-5": "int8", "coral-usb": "int8"},
        variants=tuple(variants),
        source_metrics={output: {"accuracy": 0.9133}},
        evaluation_samples=10_000,
        notes=("The labels of 3 samples were beyond the classes and were left out.",),
        host="Intel Xeon 2.2 GHz, x86_64, 2 cores",
        bench_host="Raspberry Pi 5 Model B Rev 1.0, aarch64, 4 cores",
    )
    findings = Findings(
        variants={name: _findings(name, output, row[4], rng, labels) for name, row in _VARIANTS.items()},
        budget="0.5 points",
        notes=("Samples are spread evenly over the calibration data.",),
    )
    return result, findings


def _findings(name, output, loss, rng, labels):
    scores = OutputFindings(
        kind="scores",
        primary="accuracy",
        loss_points=loss,
        reference_points=91.33,
        classes=tuple(
            ClassFinding(
                label=i,
                samples=1000,
                original=0.95 - i * 0.02,
                variant=0.95 - i * 0.02 - rng.random() * loss / 20,
                agreement=1 - rng.random() * loss / 10,
            )
            for i in range(labels)
        ),
        confusion=tuple(
            tuple(int(v) for v in np.where(np.arange(labels) == i, 940 - 7 * i, rng.poisson(loss * 8, labels)))
            for i in range(labels)
        ),
        worst=tuple(
            WorstSample(sample=17 + 31 * i, error=0.3 / (i + 1), original="class 6 (0.41)", variant="class 0 (0.47)")
            for i in range(10)
        ),
    )
    extra = {}
    if name in ("int8", "mixed"):
        extra["layers"] = tuple(
            LayerError(
                name=f"functional/stem/conv_dw_{i}/Relu6;batch_normalization_{i}/FusedBatchNormV3",
                operator="DEPTHWISE_CONV_2D",
                sqnr_db=11.0 + i * 0.7,
                rmse_per_scale=2.1 / (1 + i / 4),
                kept_float=name == "mixed" and i < 4,
            )
            for i in range(52)
        )
    if name == "int8":
        extra["edge_tpu"] = edge_tpu()
        extra["gpu"] = GpuReport(compatible=False, problems=("QUANTIZE: INT8 tensors are not taken",))
    if name == "float32":
        extra["gpu"] = GpuReport(compatible=True)
    return VariantFindings(outputs={output: scores}, **extra)


def edge_tpu():
    """A graph whose last two operators stay on the CPU."""
    last = len(OPERATORS) - 2
    return EdgeTpuReport(
        by="rules",
        operators=tuple(
            OperatorMapping(
                index=i,
                operator=name,
                name=f"functional/block_{i}",
                mapped=i < last,
                reason="its output has two dimensions" if i == last else "",
                macs=1_000 * (i + 1),
            )
            for i, name in enumerate(OPERATORS)
        ),
        first_unmapped=last,
        macs_mapped=0.982,
        parameter_bytes=301_200,
        cache_bytes=7_900_000,
    )


def nothing_fits():
    """Exit code 3: two variants, both beyond the budget."""
    result, findings = good()
    variants = tuple(one for one in result.variants if one.name in ("int8", "weights4", "int8-edgetpu"))
    kept = {name: one for name, one in findings.variants.items() if name in ("int8", "weights4")}
    return (
        PackageResult(
            package=None,
            name="fashion",
            version=3,
            chosen={},
            variants=variants,
            evaluation_samples=10_000,
            source_metrics=result.source_metrics,
        ),
        Findings(variants=kept, budget="0.1 points"),
    )


def hostile():
    """Every string that a model, its labels or its data can bring is an attack."""
    result, findings = good(output=HOSTILE)
    renamed = {"int8": HOSTILE}
    result = PackageResult(
        package=HOSTILE,
        name="fashion",
        version=3,
        chosen={HOSTILE: HOSTILE},
        variants=tuple(
            VariantResult(
                name=renamed.get(one.name, one.name),
                status=one.status,
                size_bytes=one.size_bytes,
                metrics={output: {HOSTILE: 0.5, **found} for output, found in one.metrics.items()},
                error=HOSTILE,
            )
            for one in result.variants
        ),
        notes=(HOSTILE,),
        host=HOSTILE,
        bench_host=HOSTILE,
    )
    attacked = {
        renamed.get(name, name): VariantFindings(
            outputs={
                output: OutputFindings(
                    kind="scores",
                    primary=HOSTILE,
                    loss_points=found.loss_points,
                    classes=found.classes,
                    confusion=found.confusion,
                    worst=(WorstSample(sample=1, error=1.0, original=HOSTILE, variant=HOSTILE),),
                )
                for output, found in one.outputs.items()
            },
            layers=(LayerError(name=HOSTILE, operator=HOSTILE, sqnr_db=1.0, rmse_per_scale=1.0),),
            edge_tpu=EdgeTpuReport(
                by="rules",
                operators=(OperatorMapping(index=0, operator=HOSTILE, name=HOSTILE, mapped=False, reason=HOSTILE),),
                first_unmapped=0,
                macs_mapped=0.0,
                parameter_bytes=1,
                cache_bytes=1,
                blockers=(HOSTILE,),
            ),
            gpu=GpuReport(compatible=False, problems=(HOSTILE,)),
        )
        for name, one in findings.variants.items()
    }
    return result, Findings(variants=attacked, budget=HOSTILE, notes=(HOSTILE,))


def picture(seed=1, side=28):
    """A small PNG."""
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 255, (side, side)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()
