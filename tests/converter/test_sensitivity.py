import numpy as np
import pytest
from support import converter_models, lowerings, outlier_net, silent_net
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
    assert (first.name, first.operator) == ("Relu_4;pointwise1", "CONV_2D")
    assert (second.name, second.operator) == ("Relu_3;depthwise1", "DEPTHWISE_CONV_2D")
    assert first.sqnr_db <= second.sqnr_db < 10
    assert all(error.sqnr_db > 12 for error in others)
    assert all(error.rmse_per_scale > 0.05 for error in (first, second, *others))


def silent(server, folder, build):
    """The errors of one of the nets in `silent_net`."""
    server.run(build, LIMIT_S, folder / "model")
    return server.run(layer_errors, LIMIT_S, task(folder))


def test_a_layer_that_loses_everything_hides_none_behind_it(server, tmp_path):
    """The second loud block reads as what it is, and the layers between the two as good, though int8 gives 0 there."""
    errors = silent(server, tmp_path, silent_net.build)
    assert {error.name for error in errors[:4]} == {
        *("Relu_1;depthwise0", "Relu_2;pointwise0"),
        *("Relu_5;depthwise2", "Relu_6;pointwise2"),
    }
    assert all(error.sqnr_db < 1 for error in errors[:4])
    assert len(errors) == 9
    assert all(40 < error.sqnr_db < 60 for error in errors[4:])


def test_names_are_those_of_the_float_model(server, tmp_path):
    """Also of layers that give an output of the model: under any other name they could not be left in float."""
    names = {error.name for error in silent(server, tmp_path, silent_net.build)}
    server.run(lower, LIMIT_S, task(tmp_path, FLOAT32))
    assert names <= server.run(silent_net.names, LIMIT_S, tmp_path / "float32.tflite")

    def last_in_int8(*float_layers):
        lowering = task(tmp_path, float_layers=frozenset(float_layers))
        server.run(lower, LIMIT_S, lowering)
        dtypes = server.run(lowerings.tensors, LIMIT_S, lowering.file)
        return any(name.startswith("PartitionedCall") and dtype == "int8" for name, dtype in dtypes.items())

    assert "PartitionedCall:0" in names
    assert last_in_int8()
    assert not last_in_int8("PartitionedCall:0")


def test_what_is_no_number_is_lost_and_told_in_numbers(server, tmp_path):
    """No int8 stands for NaN; and no NaN could be read back from the findings."""
    first, *_ = silent(server, tmp_path, silent_net.undefined)
    assert first.operator == "LOG"
    assert first.sqnr_db < 1
    assert np.isfinite(first.rmse_per_scale)


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
