import numpy as np
import pytest
from support.edge_models import rows, scale_model, scale_signature

from converter.artifact import Variant
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.delegates import open_session
from edge_runtime.engine.engine import Engine
from edge_runtime.errors import EngineFailed


def engine(*, batched_file, device="cpu"):
    """Callers see any number of rows; the file takes any, or one."""
    own = (scale_signature(batched=batched_file),)
    variant = Variant(name="v", file="v.tflite", size_bytes=1, signatures=own)
    session = open_session(SessionSpec(subject="scale/1", signatures=own), scale_model(3.0, batched=batched_file))
    return Engine(session, variant, (scale_signature(),), device=device)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("batched_file", [True, False])
def test_rows_go_one_by_one_where_the_file_takes_one(count, batched_file):
    """What is compiled for one row answers several all the same, as the file that takes them at once."""
    x = rows(count, start=1)
    outputs = engine(batched_file=batched_file).run("serving_default", {"x": x})
    np.testing.assert_array_equal(outputs["y"], x * 3)


def test_counts_the_runs_that_ended_well():
    """`runs` tells an engine that has answered from one that never has."""
    one = engine(batched_file=True)
    one.run("serving_default", {"x": rows(1)})
    with pytest.raises(EngineFailed):
        one.run("serving_default", {"x": np.zeros((1, 4), np.int32)})
    assert one.runs == 1


def test_place_is_the_device():
    """A reply's place is the device string, so that one of several Edge TPUs can be told."""
    assert engine(batched_file=True, device="edgetpu:usb:1").place == "device:edgetpu:usb:1"
