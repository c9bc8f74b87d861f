import numpy as np
import pytest
from support.edge_models import publish_scale, rows, scale_model, scale_signature

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime import EngineFailed, PackageRefused
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession


@pytest.fixture
def engine(tmp_path):
    package = publish_scale(tmp_path, 1, 2.0)
    variant = package.manifest.variants[0]
    spec = SessionSpec(subject="scale/1", signatures=variant.signatures)
    one = InterpreterSession(spec, package.read(variant.file))
    yield one
    one.close()


def test_answers_any_batch_size(engine):
    """A dynamic batch axis takes every number of rows, in any order, and again."""
    for count in (1, 5, 2, 8, 3, 7, 1, 5):
        x = rows(count, start=count)
        np.testing.assert_array_equal(engine.run("serving_default", {"x": x})["y"], x * 2)


def test_outputs_outlive_the_next_run(engine):
    """What a run returned stays as it was when the engine runs again."""
    first = engine.run("serving_default", {"x": rows(1)})["y"]
    before = first.copy()
    engine.run("serving_default", {"x": rows(1, start=50)})
    np.testing.assert_array_equal(first, before)


def test_takes_views_that_are_not_contiguous(engine):
    """A strided view is read as what it shows, not as the memory behind it."""
    x = rows(8)[::2]
    np.testing.assert_array_equal(engine.run("serving_default", {"x": x})["y"], x * 2)


def test_shapes_kept_are_bounded(engine):
    """However many batch sizes come, only a bounded number of interpreters is kept."""
    for count in range(1, 20):
        engine.run("serving_default", {"x": rows(count)})
    assert len(engine._calls) <= 4


def test_repr_shows_state(engine):
    """The repr says for which shapes it is ready."""
    engine.run("serving_default", {"x": rows(2)})
    assert "[(2, 4)]" in repr(engine)


@pytest.mark.parametrize("content", [b"", b"no model at all", scale_model(2.0)[:200]])
def test_unreadable_model_is_refused(content):
    """A file that is no TFLite model is a named error, not a crash."""
    with pytest.raises(EngineFailed, match="broken/1"):
        InterpreterSession(SessionSpec(subject="broken/1", signatures=(scale_signature(),)), content)


def test_shape_in_use_is_kept(engine):
    """The interpreter for the shape that is used all the time is not the one that gives way to new shapes."""
    usual = ("serving_default", ((1, 4),))
    for count in range(2, 20):
        engine.run("serving_default", {"x": rows(1)})
        engine.run("serving_default", {"x": rows(count)})
        assert usual in engine._calls


def spec(name="y", dtype="float32", shape=(-1, 4), quantization=None):
    return TensorSpec(name=name, dtype=dtype, shape=shape, quantization=quantization)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (spec(name="z"), r"outputs \['y'\] in the file, \['z'\] in the manifest"),
        (spec(shape=(-1, 5)), r"'y': float32\[-1, 4\] in the file, float32\[-1, 5\] in the manifest"),
        (spec(dtype="int8"), r"float32\[-1, 4\] in the file, int8\[-1, 4\]"),
        (spec(quantization=Quantization(scales=(0.5,), zero_points=(0,))), "its quantization is not the manifest's"),
    ],
)
def test_file_that_is_not_what_the_manifest_says_is_refused(output, said):
    """A manifest that describes other tensors than the file has is refused before anything runs."""
    signature = Signature(name="serving_default", inputs=scale_signature().inputs, outputs=(output,), batch_axis=0)
    with pytest.raises(PackageRefused, match=said):
        InterpreterSession(SessionSpec(subject="v/1", signatures=(signature,)), scale_model(2.0))
