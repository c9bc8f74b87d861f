import numpy as np
import pytest
from support import converter_models, lite_variants

from converter.artifact import Signature, TensorSpec
from converter.data import Dataset
from converter.latency import MIN_RUNS, host, made_up, measure

CNN = Signature(
    name="serving_default",
    inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 8, 8, 1)),),
    outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, 4)),),
    batch_axis=0,
)


def test_made_up_inputs_are_one_sample_and_the_same_every_time():
    """Floats between 0 and 1, integers that any table holds."""
    inputs = (
        TensorSpec(name="image", dtype="float32", shape=(-1, 8, 8, 1)),
        TensorSpec(name="tokens", dtype="int32", shape=(-1, -1)),
        TensorSpec(name="word", dtype="string", shape=(-1,)),
    )
    signature = Signature(name="s", inputs=inputs, outputs=CNN.outputs, batch_axis=0)
    first, second = made_up(signature), made_up(signature)
    assert {name: array.shape for name, array in first.items()} == {
        "image": (1, 8, 8, 1),
        "tokens": (1, 1),
        "word": (1,),
    }
    assert all((first[name] == second[name]).all() for name in first)
    assert 0 <= first["image"].min() < first["image"].max() <= 1


def test_the_host_is_told_in_one_line():
    """What a reader needs to know whose figures these are."""
    assert "cores, LiteRT " in host()
    assert "\n" not in host()


@pytest.mark.slow
def test_each_number_of_threads_is_timed(server, models, tmp_path):
    """As many runs as there is time for, and never fewer than a percentile needs."""
    server.run(lite_variants.lower, 60.0, models / "cnn", tmp_path / "a.tflite")
    found = server.run(measure, 60.0, tmp_path / "a.tflite", CNN, (1, 2), time_s=0.05, runs=50)
    assert [one.threads for one in found] == [1, 2]
    assert all(MIN_RUNS <= one.runs <= 50 and 0 < one.median_us <= one.p90_us for one in found)
    image = tmp_path / "image.npy"
    np.save(image, converter_models.images(3))
    data = Dataset(origin="x", samples=3, files={"image": image}, batched=True, keeps_axis=True)
    found = server.run(measure, 60.0, tmp_path / "a.tflite", CNN, (1,), dataset=data, time_s=0.0)
    assert [one.runs for one in found] == [MIN_RUNS]
