"""Which of a version's forms serves: tables of what was measured."""

import numpy as np
import pytest
from support.fallback_fakes import signature

from fallback_server.executors.choice import Measured, Tolerance, choose, difference, says_nothing, spreads, unlike

ONE, MANY = ("serving_default", 1), ("serving_default", 32)
TOLERANCE = Tolerance()


def tf(one_s=1e-3, many_s=2e-3, refusal=""):
    return Measured(kind="tensorflow", median_s={ONE: one_s, MANY: many_s}, refusal=refusal)


def litert(one_s=1e-5, many_s=1e-4, refusal=""):
    return Measured(kind="litert", median_s={ONE: one_s, MANY: many_s}, refusal=refusal)


@pytest.mark.parametrize(
    ("measured", "kind"),
    [
        ([tf(), litert()], "litert"),
        ([tf(), litert(refusal="another answer")], "tensorflow"),
        ([tf(refusal="no graph"), litert(one_s=9)], "litert"),
        # Faster at one row and slower at many: by both together.
        ([tf(1e-3, 1e-3), litert(5e-4, 1.9e-3)], "litert"),
        ([tf(1e-3, 1e-3), litert(5e-4, 2.1e-3)], "tensorflow"),
        # Nothing was timed, or both are alike: the first.
        ([tf(1, 1), litert(1, 1)], "tensorflow"),
        ([Measured(kind="tensorflow"), Measured(kind="litert")], "tensorflow"),
    ],
)
def test_the_faster_of_those_that_agree_serves(measured, kind):
    """The first where none is faster."""
    assert choose(measured, TOLERANCE, compared=3).kind == kind


def test_the_choice_is_told_with_its_figures():
    """What serves, the times of both, and within what they agree; or what speaks against the other."""
    assert choose([tf(), litert()], TOLERANCE, compared=3).why == (
        "LiteRT serves; median times: LiteRT 0.01 ms for 1 row and 0.1 ms for 32 rows, the SavedModel 1 ms for 1 row "
        "and 2 ms for 32 rows; alike within rtol 0.001, atol 0.0001 of each output's spread on 3 requests"
    )
    refused = choose([tf(), litert(refusal="another answer")], TOLERANCE, compared=0)
    assert refused.why == "the SavedModel serves; LiteRT does not: another answer"


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (np.float32([1, 100]), np.float32([1.00009, 100.09]), ""),
        (np.float32([1, 100]), np.float32([1.0012, 100]), "output 'y' differs by up to 0.0012"),
        (np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf]), ""),
        (np.float32([np.nan]), np.float32([0]), "output 'y' differs by up to 0"),
        (np.int32([1, 2]), np.int32([1, 2]), ""),
        (np.int32([1, 2]), np.int32([1, 3]), "output 'y' differs"),
        (np.array([b"a"], object), np.array([b"b"], object), "output 'y' differs"),
        (np.float32([1]), np.float64([1]), "output 'y' is float32 [1] and float64 [1]"),
        (np.float32([1]), np.float32([[1]]), "output 'y' is float32 [1] and float32 [1, 1]"),
    ],
)
def test_answers_are_alike_within_the_tolerance(one, other, said):
    """Floats nearly, all else exactly; the text says what differs."""
    assert difference({"y": one}, {"y": other}, TOLERANCE, {"y": 1.0}) == said
    assert difference({"y": one}, {"z": one}, TOLERANCE, {"y": 1.0}) == "outputs ['y'] and ['z']"


def test_the_absolute_tolerance_is_of_the_outputs_own_scale():
    """Tiny values that are another model's are seen to be, and nearly nothing beside large ones is nothing."""
    tiny = {"y": np.float32([1e-5, 2e-5])}
    turned = {"y": np.float32([2e-5, 1e-5])}
    assert difference(tiny, turned, TOLERANCE, spreads([tiny])) == "output 'y' differs by up to 1e-05"
    large, near = {"y": np.float32([5e4, 0])}, {"y": np.float32([5e4, 1])}
    assert spreads([large, near]) == {"y": 5e4}
    assert difference(large, near, TOLERANCE, spreads([large])) == ""


def test_spreads_are_over_all_answers_and_of_finite_numbers():
    """Of complex numbers the parts; what has no floats has none."""
    answers = [{"y": np.float32([1, np.nan]), "i": np.int32([7])}, {"y": np.float32([np.inf, -2]), "i": np.int32([9])}]
    assert spreads(answers) == {"y": 3.0, "i": 0.0}
    assert spreads([{"y": np.complex64([1 + 5j])}]) == {"y": 4.0}
    assert spreads([{"y": np.float32([np.nan])}]) == {"y": 0.0}
    assert spreads([]) == {}


NANS, SAME, OTHERS = np.float32([[np.nan], [np.nan]]), np.float32([[1], [1]]), np.float32([[1], [2]])


@pytest.mark.parametrize(
    ("answers", "made_up", "said"),
    [
        ([{"y": OTHERS}], True, ""),
        ([{"y": SAME}, {"y": SAME * 2}], True, ""),
        ([{"y": SAME}, {"y": SAME}], True, "output 'y' is the same for all made-up requests"),
        ([{"y": SAME}, {"y": SAME}], False, ""),
        ([{"y": NANS}, {"y": NANS}], False, "output 'y' is no finite number in any answer"),
        ([{"y": OTHERS, "z": NANS}], True, "output 'z' is no finite number in any answer"),
        ([{"y": OTHERS, "z": SAME}], True, "output 'z' is the same for all made-up requests"),
        # Names of classes are the same for each request, as they should be.
        ([{"y": OTHERS, "names": np.array([[b"a"], [b"a"]], object)}], True, ""),
        ([{"y": np.int32([3, 3])}], True, "all outputs are the same for all made-up requests"),
        ([{"y": np.int32([3, 4])}], True, ""),
    ],
)
def test_answers_may_say_nothing(answers, made_up, said):
    """No numbers at all, and what is the same for whatever is asked, unless somebody has recorded just that."""
    assert says_nothing(answers, made_up=made_up, rows=True) == said


def test_without_rows_whole_answers_are_held_against_each_other():
    """An answer that has different values is the same as another that has just these."""
    assert says_nothing([{"y": OTHERS}, {"y": OTHERS}], made_up=True, rows=False) != ""
    assert says_nothing([{"y": OTHERS}, {"y": SAME}], made_up=True, rows=False) == ""


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ({"x": (-1, 2)}, {"y": (-1, 3)}, ""),
        ({"x": (-1, 2)}, {"y": (-1, -1)}, ""),
        ({"x": (-1, 2)}, {"y": (-1, 4)}, "output 'y' is float32 [-1, 3] and float32 [-1, 4]"),
        ({"x": (-1, 2)}, {"y": (-1,)}, "output 'y' is float32 [-1, 3] and float32 [-1]"),
        ({"x": (1, 2)}, {"y": (-1, 3)}, "input 'x' is float32 [-1, 2] and float32 [1, 2]"),
        ({"x": (-1, -1)}, {"y": (-1, 3)}, "input 'x' is float32 [-1, 2] and float32 [-1, -1]"),
        ({"x": ((-1, 2), np.int32)}, {"y": (-1, 3)}, "input 'x' is float32 [-1, 2] and int32 [-1, 2]"),
        ({"z": (-1, 2)}, {"y": (-1, 3)}, "inputs ['x'] and ['z']"),
    ],
)
def test_a_form_with_another_interface_may_not_stand_for_the_first(inputs, outputs, said):
    """Inputs must be the same; what an output's size is need be known of one alone."""
    ours = {"serving_default": signature({"x": (-1, 2)}, {"y": (-1, 3)})}
    theirs = {"serving_default": signature(inputs, outputs)}
    assert unlike(ours, theirs) == (said and f"signature 'serving_default': {said}")
    assert unlike(ours, {}) == "signatures ['serving_default'] and []"
