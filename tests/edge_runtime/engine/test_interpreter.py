import numpy as np
import pytest
from support.edge_models import publish_scale, rows, scale_model, scale_signature

from converter.artifact import Variant
from edge_runtime import EngineFailed
from edge_runtime.engine.interpreter import Engine


@pytest.fixture
def engine(tmp_path):
    package = publish_scale(tmp_path, 1, 2.0)
    variant = package.manifest.variants[0]
    one = Engine(package.file(variant), variant, package.manifest.signatures, threads=1)
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
    """The repr says which file, where, and for which shapes it is ready."""
    engine.run("serving_default", {"x": rows(2)})
    assert "float32.tflite on device:cpu" in repr(engine)
    assert "[(2, 4)]" in repr(engine)


@pytest.mark.parametrize("content", [b"", b"no model at all", scale_model(2.0)[:200]])
def test_unreadable_model_is_refused(tmp_path, content):
    """A file that is no TFLite model is a named error, not a crash."""
    file = tmp_path / "broken.tflite"
    file.write_bytes(content)
    signature = scale_signature()
    variant = Variant(name="float32", file="broken.tflite", size_bytes=len(content), signatures=(signature,))
    with pytest.raises(EngineFailed, match=r"broken\.tflite"):
        Engine(file, variant, (signature,), threads=1)
