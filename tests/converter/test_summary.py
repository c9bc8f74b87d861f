import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import report_results

from converter.artifact import Cascade, Latency
from converter.config import Budget
from converter.findings import Findings, OutputFindings, VariantFindings
from converter.result import PackageResult, VariantResult
from converter.summary import (
    cascade_text,
    closest,
    compared,
    dominated,
    front,
    headline,
    joined,
    loss_of,
    loss_words,
    said_budget,
    within,
)

TIME = {"float32": 400.0, "int8": 200.0}


def result(**changes):
    """float32 of 100 kB and int8 of 25 kB, twice as fast."""
    variants = tuple(
        VariantResult(
            name=name,
            status="ok",
            size_bytes=size,
            latency=(Latency(threads=1, median_us=TIME[name], p90_us=TIME[name], runs=5),),
        )
        for name, size in (("float32", 100_000), ("int8", 25_000))
    )
    fields = {
        "package": "p/1",
        "name": "toy",
        "version": 1,
        "chosen": {"default": "int8"},
        "variants": variants,
        **changes,
    }
    return PackageResult(**fields)


def findings(primary="accuracy", **losses):
    return Findings(
        variants={
            name: VariantFindings(
                outputs={"y": OutputFindings(kind="scores", primary=primary, loss_points=loss, reference_points=90.0)}
            )
            for name, loss in losses.items()
        }
    )


@pytest.mark.parametrize(
    ("loss", "primary", "said"),
    [
        (0.12, "accuracy", "0.12 points less accurate"),
        (-0.2, "accuracy", "0.20 points more accurate"),
        (0.001, "accuracy", "no less accurate"),
        (0.5, "top1_agreement", "0.50 points of agreement lost"),
        (0.0, "f1", "no F1 lost"),
        (1.5, "relative_rmse", "an error of 1.50 points (relative RMSE)"),
    ],
)
def test_the_headline_says_size_loss_and_speed(loss, primary, said):
    """In words that fit the metric."""
    text = headline(result(), findings(primary, int8=loss, float32=0.0))
    assert text == f"int8: 4.0x smaller, {said}, 2.0x faster on this host."


def test_targets_that_share_a_variant_are_told_together():
    """The default is named only where it differs from the others."""
    chosen = {"default": "float32", "coral-usb": "int8", "raspberry-pi-5": "int8"}
    assert headline(result(chosen=chosen), findings(int8=0.1, float32=0.0)) == (
        "float32 by default: 100.0 kB, no less accurate; "
        "int8 for coral-usb and raspberry-pi-5: 4.0x smaller, 0.10 points less accurate, 2.0x faster on this host."
    )


def test_an_accelerators_speed_is_not_read_off_this_host():
    """How fast a CPU here runs the file says nothing of an Edge TPU; nor is a few percent a difference."""
    text = headline(result(chosen={"default": "float32", "coral-usb": "int8"}), findings(int8=0.1, float32=0.0))
    assert text.endswith("int8 for coral-usb: 4.0x smaller, 0.10 points less accurate.")
    assert [compared(one, "more", "less", "same") for one in (1.04, 0.96, 1.1, 0.5)] == [
        *("same", "same", "1.1x more", "2.0x less"),
    ]


def test_what_was_not_measured_is_not_claimed():
    """Neither loss nor speed, nor a size against a float32 that was never made."""
    only = (VariantResult(name="int8", status="ok", size_bytes=25_000),)
    assert headline(result(variants=only), Findings()) == "int8: 25.0 kB, accuracy not measured."


def test_where_nothing_fits_the_closest_is_named():
    """For the targets that got nothing; what is within the budget did not come close but fits."""
    missed = result(package=None, chosen={"default": "float32"})
    text = headline(
        missed, findings(int8=3.0, float32=0.0), budget=Budget(points=0.5), targets=("default", "coral-usb")
    )
    assert text == (
        "No variant is within 0.5 points for coral-usb. int8 came closest: 3.00 points less accurate. "
        "Nothing was published."
    )
    failed = (VariantResult(name="int8", status="failed", error="killed"),)
    assert headline(result(variants=failed, chosen={}), Findings()).startswith("No variant could be made")


def test_the_worst_output_counts():
    """A variant loses what it loses in the output where it loses most."""
    outputs = {
        name: OutputFindings(kind="scores", primary="accuracy", loss_points=loss)
        for name, loss in (("a", 0.1), ("b", 2.0), ("c", None))
    }
    several = Findings(variants={"int8": VariantFindings(outputs=outputs)})
    loss = loss_of(several, "int8")
    assert loss
    assert (loss.output, loss.points) == ("b", 2.0)
    assert within(Budget(points=1.0), several, "int8") is False
    assert within(Budget(points=2.0), several, "int8") is True
    assert within(Budget(points=2.0), several, "float32") is None
    assert loss_words(None) == "accuracy not measured"


@given(st.dictionaries(st.text(max_size=4), st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    """Something is always on it, and whatever is not is beaten by something that is."""
    beaten = dominated(points)
    best = set(points) - beaten
    assert best
    for name in beaten:
        assert any(
            all(a <= b for a, b in zip(points[other], points[name], strict=True)) and points[other] != points[name]
            for other in best
        )


def test_the_front_of_a_real_set_of_variants():
    """int8-float-io is as int8, but larger, slower and further off."""
    made, found = report_results.good()
    assert set(found.variants) - front(made, found) == {"int8-float-io"}


@pytest.mark.parametrize("budget", [Budget(points=0.5), Budget(points=1.0, relative=True), Budget(points=0.0)])
def test_the_findings_words_are_the_budget(budget):
    """What a package says of its budget can be used again."""
    assert said_budget(Findings(budget=str(budget))) == budget


@pytest.mark.parametrize("words", ["", "what?", "1e9 points", "nan points"])
def test_other_words_are_no_budget(words):
    """Another program's package is shown without a line for it."""
    assert said_budget(Findings(budget=words)) is None


def test_names_are_joined_as_in_a_sentence():
    """One, two, many."""
    assert [joined(one) for one in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_closest_needs_a_measurement():
    """Nothing is close to a budget that nobody measured against."""
    assert closest(result(), Findings(), Budget(points=1.0)) is None
    assert closest(result(), findings(int8=2.0, float32=1.5), Budget(points=1.0)) == "float32"


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        (0.0, "none, it is as accurate by itself (90.00%)"),
        (0.05, "5.00% of them, those with a confidence below 0.75 in"),
    ],
)
def test_the_cascade_is_told_in_a_sentence(rate, says):
    """What share of the answers goes to the server, and below what confidence."""
    found = Cascade(
        output="scores", confidence="max", threshold=0.75, escalation_rate=rate, accuracy=0.9, source_accuracy=0.9
    )
    assert cascade_text(found).startswith(says)
