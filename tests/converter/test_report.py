import msgspec
import pytest

from converter.artifact import Latency
from converter.findings import Findings, OutputFindings, VariantFindings
from converter.report import size_text, table
from converter.result import PackageResult, VariantResult


def result(**changes):
    fields = {
        "package": "packages/toy/1",
        "name": "toy",
        "version": 1,
        "chosen": {"default": "int8"},
        "variants": (
            VariantResult(
                name="float32",
                status="ok",
                size_bytes=33_804,
                metrics={"y": {"accuracy": 0.9622, "top1_agreement": 1.0, "sqnr_db": 140.44, "rmse": 2.9e-8}},
            ),
            VariantResult(
                name="int8",
                status="ok",
                size_bytes=13_720,
                metrics={"y": {"accuracy": 0.96, "top1_agreement": 0.9978, "sqnr_db": 41.6, "rmse": 0.00256}},
            ),
        ),
        "source_metrics": {"y": {"accuracy": 0.9622}},
        "evaluation_samples": 450,
        **changes,
    }
    return PackageResult(**fields)


def test_the_table_shows_size_accuracy_and_the_choice():
    """One line for the original and one for each variant, aligned."""
    assert table(result()) == "\n".join(  # noqa: FLY002  the lines are easier to read so
        [
            "toy version 1: packages/toy/1",
            "",
            "variant   size     accuracy  agreement  SQNR      RMSE",
            "original           96.22%",
            "float32   33.8 kB  96.22%    100.00%    140.4 dB  2.9e-08",
            "int8      13.7 kB  96.00%    99.78%     41.6 dB   0.00256  chosen for default",
            "",
            "Measured on 450 evaluation samples.",
        ]
    )


def test_failures_are_told_below_with_their_reasons():
    """A variant that failed has no size, and its error has a line of its own."""
    failed = VariantResult(name="int8", status="failed", error="conversion: killed")
    text = table(result(variants=(result().variants[0], failed), chosen={"default": "float32"}, notes=("A note.",)))
    assert "int8 failed: conversion: killed" in text.splitlines()
    assert text.endswith("A note.")


def test_several_outputs_have_a_column_and_a_line_each():
    """The variant is named once."""
    metrics = {name: {"sqnr_db": 30.0, "rmse": 0.1} for name in ("boxes", "count")}
    variant = VariantResult(name="float32", status="ok", size_bytes=10, metrics=metrics)
    lines = table(result(variants=(variant,), chosen={"default": "float32"}, source_metrics={})).splitlines()
    assert lines[2].split() == ["variant", "size", "output", "SQNR", "RMSE"]
    assert lines[3].split()[:4] == ["float32", "10", "B", "boxes"]
    assert lines[4].split()[0] == "count"


def test_a_package_that_was_never_measured_says_so():
    """Without evaluation samples the table does not look like a measurement."""
    assert "accuracy was not measured" in table(result(evaluation_samples=0))


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (13_720, "13.7 kB"),
        (5_400_000, "5.4 MB"),
        (7 * 10**12, "7000.0 GB"),
    ],
)
def test_sizes_are_in_powers_of_ten(size_bytes, text):
    """As disks and networks count."""
    assert size_text(size_bytes) == text


def finding(loss_points):
    return VariantFindings(
        outputs={"y": OutputFindings(kind="scores", primary="accuracy", loss_points=loss_points, reference_points=96.0)}
    )


def test_losses_and_times_have_columns_where_they_are_known():
    """The loss against the budget, the median on this host, and a device's; a line says whose times they are."""
    float32, int8 = result().variants
    times = (
        Latency(threads=4, median_us=90.0, p90_us=99.0, runs=9),
        Latency(threads=1, median_us=178.0, p90_us=200.0, runs=9),
    )
    device = (Latency(threads=4, median_us=1_200.0, p90_us=1_300.0, runs=9),)
    text = table(
        result(
            variants=(float32, msgspec.structs.replace(int8, latency=times, bench=device)),
            host="a host",
            bench_host="a board",
        ),
        Findings(variants={"float32": finding(0.0), "int8": finding(0.22)}, budget="0.1 points"),
    )
    lines = text.splitlines()
    assert lines[2].split() == ["variant", "size", "accuracy", "agreement", "SQNR", "RMSE", "loss", "latency", "bench"]
    assert lines[4].split()[-2:] == ["0.00", "pt"]
    assert "0.22 pt, over  178 µs   1.20 ms  chosen for default" in lines[5]
    assert lines[7:] == [
        "Measured on 450 evaluation samples.",
        "A variant may lose 0.1 points.",
        "Latency: the median of one call with one sample on this host (a host), 1 thread.",
        "Bench: the median of one call with one sample on a board, 4 threads.",
    ]
