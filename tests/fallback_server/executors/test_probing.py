"""What is tried of a model, and what is found out: functions of which it is known whether they keep rows apart."""

import numpy as np
import pytest
from support.fallback_fakes import signature

from fallback_server.executors.probing import keeps_rows, made_up, mixes_rows, tried

ONE = signature({"x": (-1, 2)}, {"y": (-1, 2)})


def turned(x):
    return x[::-1]


MIXING = {
    "reversed": turned,
    "sorted": lambda x: np.sort(x, axis=0),
    "sorted the other way": lambda x: -np.sort(-x, axis=0),
    "moved on": lambda x: np.roll(x, 1, axis=0),
    "summed up": lambda x: np.cumsum(x, axis=0),
    "less the largest": lambda x: x - x.max(axis=0, keepdims=True),
    "the last of all": lambda x: np.broadcast_to(x[-1:], x.shape),
}


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.int8])
@pytest.mark.parametrize("what", MIXING)
@pytest.mark.parametrize("shape", [(-1,), (-1, 2)])
def test_no_order_of_rows_goes_unnoticed(what, dtype, shape):
    """Of any kind of number: a model that merely turns its rows around would give clients each other's answers."""
    zeros = made_up(signature({"x": (shape, dtype)}, {"y": (shape, dtype)}))
    assert mixes_rows(lambda given: {"y": MIXING[what](given["x"])}, zeros)
    assert not mixes_rows(lambda given: {"y": given["x"]}, zeros)


@pytest.mark.parametrize("what", ["reversed", "moved on", "sorted"])
def test_a_model_that_takes_zeros_and_ones_alone_is_tried_with_those(what):
    """What refuses all else can still be found out."""

    def run(given):
        if not np.isin(given["i"], (0, 1)).all():
            raise ValueError("out of range")
        return {"y": MIXING[what](given["i"])}

    assert mixes_rows(run, made_up(signature({"i": ((-1,), np.int64)}, {"y": (-1,)})))


def test_whether_two_booleans_are_turned_around_is_seen():
    """Though there are but two of them."""
    zeros = made_up(signature({"x": ((-1,), np.bool_)}, {"y": (-1,)}))
    assert mixes_rows(lambda given: {"y": turned(given["x"])}, zeros)
    assert not mixes_rows(lambda given: {"y": ~given["x"]}, zeros)


def strings(function):
    return lambda given: {"t": function(given["s"])}


TEXT = signature({"s": ((-1,), object)}, {"t": ((-1,), object)})
PLANES = signature({"x": (-1, -1, -1)}, {"y": (-1,)})


def shapes_from(least):
    def run(given):
        if given["x"].shape[1] < least:
            raise ValueError("too small")
        return {"y": given["x"].sum(axis=(1, 2))}

    return run


def refuse(given):
    raise ValueError("nothing is right")


@pytest.mark.parametrize(
    ("one", "run", "found"),
    [
        (TEXT, strings(lambda s: s), True),
        (TEXT, strings(turned), False),
        (PLANES, shapes_from(0), True),
        (PLANES, shapes_from(32), True),
        (PLANES, shapes_from(100), None),
        (PLANES, lambda given: {"y": turned(given["x"]).sum(axis=(1, 2))}, False),
        (ONE, refuse, None),
        (ONE, lambda given: {"y": given["x"]}, True),
    ],
)
def test_strings_and_variable_sizes_are_tried_too(one, run, found):
    """In several sizes, since a model may refuse small ones; None where it refuses all that is tried."""
    assert keeps_rows(run, one) is found


def test_what_could_not_be_tried_is_not_merged(caplog):
    """Nor what mixes; the log tells the two apart."""
    assert tried(lambda given: {"y": given["x"]}, ONE).batches
    assert caplog.text == ""
    assert not tried(refuse, ONE).batches
    assert "ran on nothing that could be made up" in caplog.text
    assert not tried(lambda given: {"y": turned(given["x"])}, ONE).batches
    assert "depends on the rows beside it" in caplog.text


def test_what_has_no_rows_is_run_once():
    """So that the first request pays for no set-up; a refusal is no fault."""
    fixed = signature({"x": (2, 2)}, {"y": (2, 2)})
    seen = []
    assert tried(lambda given: seen.append(given["x"].shape), fixed) is fixed
    assert seen == [(2, 2)]
    assert tried(refuse, fixed) is fixed
