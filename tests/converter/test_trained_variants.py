import numpy as np
import pytest
from support import fashion, lowerings
from support.lowerings import signature

from converter.artifact import TensorSpec
from converter.data import Dataset
from converter.quantize import lower
from converter.recipes import RECIPES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(fashion.folder() is None, reason="Fashion-MNIST is not here: run requirements/test-data.sh"),
]

LIMIT_S = 120.0
TEST_SAMPLES = 2_000

MAX_DROP_POINTS = {"float32": 0.0, "float16": 0.1, "dynamic": 0.5, "int8": 1.0, "int8-float-io": 1.0, "int16x8": 0.5}
"""4 bits may lose more."""


@pytest.fixture(scope="module")
def trained(server, pytestconfig):
    """A SavedModel that knows clothes; trained at the first run on a machine."""
    return server.run(fashion.trained_cnn, LIMIT_S, pytestconfig.cache.mkdir("fashion"))


@pytest.mark.parametrize("one", RECIPES, ids=lambda one: one.name)
def test_a_trained_net_keeps_its_accuracy(server, trained, tmp_path, one):
    """Right answers on real images, which random weights can't tell."""
    train, _, test, labels = fashion.fashion_mnist()
    np.save(tmp_path / "images.npy", train[-200:, ..., np.newaxis] / np.float32(255))
    data = Dataset(origin="train", samples=200, files={"image": tmp_path / "images.npy"}, batched=True, keeps_axis=True)
    inputs = (TensorSpec(name="image", dtype="float32", shape=(-1, 28, 28, 1)),)
    scores = signature("serving_default", "scores", 10, inputs=inputs)
    task = lowerings.task(trained, one, tmp_path, signatures=(scores,), calibration=data)
    server.run(lower, LIMIT_S, task)
    images = test[:TEST_SAMPLES, ..., np.newaxis] / np.float32(255)
    found = server.run(lowerings.answers, LIMIT_S, task.file, "scores", {"image": images})
    accuracy = float((found.argmax(axis=1) == labels[:TEST_SAMPLES]).mean())
    original = server.run(fashion.accuracy, LIMIT_S, trained, TEST_SAMPLES)
    assert original > 0.85
    assert 100 * (original - accuracy) <= MAX_DROP_POINTS.get(one.name, 5.0)
