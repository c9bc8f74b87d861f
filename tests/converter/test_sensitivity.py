import numpy as np
import pytest
from support import converter_models, lowerings, outlier_net
from support.lowerings import BRIGHTNESS, FEATURES, SCORES

from converter.errors import VariantUnusable
from converter.metrics import sqnr_db
from converter.quantize import lower
from converter.recipes import FLOAT32, MIXED
from converter.search import Trial, search
from converter.sensitivity import layer_errors

pytestmark = pytest.mark.slow

LIMIT_S = 120.0


@pytest.fixture(scope="module")
def outliers(server, tmp_path_factory):
    """The folder with the net of loud channels, as `model`."""
    folder = tmp_path_factory.mktemp("outliers")
    server.run(outlier_net.build, LIMIT_S, folder / "model")
    return folder


def task(folder, recipe=MIXED, **fields):
    return lowerings.task(folder / "model", recipe, folder, signatures=(FEATURES,), **fields)


def test_the_layers_around_loud_channels_come_first(server, outliers):
    """A plain ratio would read 40 dB where all channels but two are lost; and who takes such a tensor ranks with it."""
    first, second, *others = server.run(layer_errors, LIMIT_S, task(outliers))
    assert (first.name, first.operator) == ("Relu_3;depthwise1", "DEPTHWISE_CONV_2D")
    assert (second.name, second.operator) == ("Relu_4;pointwise1", "CONV_2D")
    assert first.sqnr_db < 10
    assert all(error.sqnr_db > 12 for error in others)
    assert all(error.rmse_per_scale > 0.05 for error in (first, second, *others))


def test_errors_are_the_same_every_time(server, outliers):
    """To the last digit: they decide what is in a package."""
    first, second = (server.run(layer_errors, LIMIT_S, task(outliers)) for _ in range(2))
    assert first == second


def test_only_the_first_signature_is_looked_at(server, models, tmp_path):
    """Whichever subgraph of the file it is, and by the names that the file of all signatures has too."""
    cnn = lowerings.task(models / "cnn", MIXED, tmp_path, signatures=(SCORES, BRIGHTNESS))
    names = {error.name for error in server.run(layer_errors, LIMIT_S, cnn)}
    assert "Relu;Conv2D" in names
    other = lowerings.task(models / "cnn", MIXED, tmp_path, signatures=(BRIGHTNESS, SCORES))
    assert [error.operator for error in server.run(layer_errors, LIMIT_S, other)] == ["MEAN"]


def test_without_samples_there_are_no_errors_to_see(server, outliers):
    """As for any recipe that needs calibration."""
    without = task(outliers, calibration=None, calibrated_file=None)
    with pytest.raises(VariantUnusable, match="needs calibration data"):
        server.run(layer_errors, LIMIT_S, without)


def test_the_search_brings_the_net_back(server, outliers):
    """Plain int8 is useless; with the two layers in float, and no others, the answers are the original's again."""
    image = converter_models.images(50, seed=8)

    def answers(file):
        return server.run(lowerings.answers, LIMIT_S, file, "features", {"image": image})

    server.run(lower, LIMIT_S, task(outliers, FLOAT32))
    original = answers(outliers / "float32.tflite")

    def attempt(float_layers):
        lowering = task(outliers, float_layers=float_layers)
        server.run(lower, LIMIT_S, lowering)
        ratio = sqnr_db(float(np.sum(original**2)), float(np.sum((answers(lowering.file) - original) ** 2)))
        return Trial(float_layers=float_layers, size_bytes=lowering.file.stat().st_size, loss_points=-ratio)

    plain = attempt(frozenset())
    outcome = search(
        server.run(layer_errors, LIMIT_S, task(outliers)),
        attempt,
        lambda trial: trial.loss_points <= -25,
        LIMIT_S,
        float,
        lambda _: None,
    )
    assert plain.loss_points > -15
    assert outcome.best.loss_points <= -25
    assert outcome.best.float_layers == {"Relu_3;depthwise1", "Relu_4;pointwise1"}
    assert len(outcome.trials) == 3
    assert plain.size_bytes < outcome.best.size_bytes < (outliers / "float32.tflite").stat().st_size
