import dataclasses

import numpy as np
import pytest
from support import converter_models, lowerings
from support.lowerings import BRIGHTNESS, IMAGE, SCORES, signature

from converter.artifact import Signature, TensorSpec
from converter.data import Dataset
from converter.errors import OperatorsUnsupported, TaskCrashed, VariantUnusable
from converter.quantize import lower
from converter.recipes import FLOAT32, MIXED, RECIPES, recipe

pytestmark = pytest.mark.slow

LIMIT_S = 120.0

INSIDE = {"int8": "int8", "int8-float-io": "int8", "int16x8": "int16", "mixed": "int8"}


@pytest.fixture(scope="module")
def lowered(server, models, tmp_path_factory):
    """The folder with the cnn by every recipe."""
    folder = tmp_path_factory.mktemp("lowered")
    for one in (*RECIPES, MIXED):
        server.run(lower, LIMIT_S, lowerings.task(models / "cnn", one, folder))
    return folder


@pytest.mark.parametrize("one", [*RECIPES, MIXED], ids=lambda one: one.name)
def test_each_recipe_makes_what_it_says(server, lowered, one):
    """Inputs, outputs and what flows between them have the recipe's dtypes."""
    file = lowered / f"{one.name}.tflite"
    assert server.run(lowerings.details, LIMIT_S, file) == {"image": one.io, "scores": one.io}
    flows = set(server.run(lowerings.tensors, LIMIT_S, file).values())
    assert INSIDE.get(one.name, "float32") in flows
    assert ("float16" in flows) == (one.weights == "float16")


@pytest.mark.parametrize(("one", "error"), [("float16", 0.001), ("dynamic", 0.02), ("int16x8", 0.02), ("int8", 0.02)])
def test_each_recipe_answers_as_the_float_model_does(server, lowered, one, error):
    """To within what its number of bits makes inevitable."""
    inputs = {"image": converter_models.images(20, seed=9)}
    found, wanted = (
        server.run(lowerings.answers, LIMIT_S, lowered / f"{name}.tflite", "scores", inputs)
        for name in (one, "float32")
    )
    np.testing.assert_allclose(found, wanted, atol=error)


def test_sizes_are_ordered_as_their_classes(lowered):
    """Fewer bits, fewer bytes, even in a model of a thousand weights."""
    sizes = [(lowered / f"{name}.tflite").stat().st_size for name in ("float32", "float16", "dynamic", "int4")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("kind", ["float32", "float16", "dynamic", "int8-float-io"])
def test_the_short_way_gives_what_tensorflow_s_own_converter_gives(server, models, lowered, tmp_path, kind):
    """The same size and the same answers, bit for bit: only what does not reach the file is left out."""
    plain, data = tmp_path / "plain.tflite", lowered / "images-1.npy"
    server.run(lowerings.plain_conversion, LIMIT_S, models / "cnn", plain, kind, data)
    ours = lowered / f"{kind}.tflite"
    assert ours.stat().st_size == pytest.approx(plain.stat().st_size, abs=200)
    inputs = {"image": converter_models.images(50, seed=3)}
    found, wanted = (server.run(lowerings.answers, LIMIT_S, file, "scores", inputs) for file in (ours, plain))
    np.testing.assert_array_equal(found, wanted)


def test_what_recipes_share_is_made_once_and_changes_nothing(server, models, lowered, tmp_path):
    """The files are written by the first that needs them; without them the same bytes come out."""
    first = lowerings.task(models / "cnn", recipe("int8"), tmp_path)
    assert server.run(lowerings.count_files_read, LIMIT_S, first) == [False, False]
    second = lowerings.task(models / "cnn", recipe("int8-float-io"), tmp_path)
    assert server.run(lowerings.count_files_read, LIMIT_S, second) == [True, True]
    alone = lowerings.task(
        models / "cnn", recipe("int8"), tmp_path, float_file=None, calibrated_file=None, file=tmp_path / "alone.tflite"
    )
    server.run(lower, LIMIT_S, alone)
    assert alone.file.read_bytes() == first.file.read_bytes() == (lowered / "int8.tflite").read_bytes()
    assert not list(tmp_path.glob("kept_*.*"))


@pytest.mark.parametrize("name", ["float32", "float16", "int8", "int16x8", "int4"])
def test_several_signatures_go_into_one_file(server, models, tmp_path, name):
    """Each can be called, and each was calibrated."""
    task = lowerings.task(models / "cnn", recipe(name), tmp_path, signatures=(SCORES, BRIGHTNESS))
    server.run(lower, LIMIT_S, task)
    image = np.load(tmp_path / "images-1.npy")[:5]  # of those that it was calibrated with
    mean = server.run(lowerings.answers, LIMIT_S, task.file, "mean", {"image": image}, "brightness")
    np.testing.assert_allclose(mean, image.mean(axis=(1, 2, 3)), atol=0.01)
    assert server.run(lowerings.details, LIMIT_S, task.file)["image"] == recipe(name).io


@pytest.mark.parametrize("other", [TensorSpec(name="photo", dtype="float32", shape=IMAGE.shape), "shape"])
def test_a_signature_that_the_data_do_not_fit_is_refused(server, models, tmp_path, other):
    """Nothing is known of its ranges; the message says what it takes and what there is."""
    spec = TensorSpec(name="image", dtype="float32", shape=(-1, 4, 4, 1)) if other == "shape" else other
    second = signature("second", "mean", inputs=(spec,))
    task = lowerings.task(models / "cnn", recipe("int8"), tmp_path, signatures=(SCORES, second))
    with pytest.raises(VariantUnusable, match=rf"'second' takes {spec.name} .*for 'serving_default'"):
        server.run(lower, LIMIT_S, task)


@pytest.mark.parametrize("name", ["int8", "int8-float-io", "int16x8", "mixed"])
def test_without_samples_there_are_no_ranges(server, models, tmp_path, name):
    """Recipes that need calibration say so."""
    task = lowerings.task(models / "cnn", recipe(name), tmp_path, calibration=None)
    with pytest.raises(VariantUnusable, match=f"{name} needs calibration data"):
        server.run(lower, LIMIT_S, task)


def test_operators_that_litert_lacks_are_named(server, models, tmp_path):
    """Their names are all that a user can act on."""
    with pytest.raises(OperatorsUnsupported, match="MatrixDeterminant"):
        server.run(lower, LIMIT_S, lowerings.task(models / "flex", FLOAT32, tmp_path))


def test_layers_can_be_left_in_float(server, models, tmp_path):
    """The named operator's output and weights are float32, the rest is int8."""
    task = lowerings.task(models / "cnn", MIXED, tmp_path, float_layers=frozenset({"Relu;Conv2D"}))
    server.run(lower, LIMIT_S, task)
    found = server.run(lowerings.tensors, LIMIT_S, task.file)
    assert found["Relu;Conv2D"] == "float32"
    assert found["matmul2"] == "int8"


def test_a_camera_s_bytes_go_into_a_folded_input_as_they_are(server, models, tmp_path):
    """The stored value is the raw one: uint8 in, int8 out, the same answers as from normalized floats."""
    low, high = -1.0, 1.5
    task = lowerings.task(models / "cnn", recipe("int8"), tmp_path, input_ranges={"image": (low, high)})
    server.run(lower, LIMIT_S, task)
    assert server.run(lowerings.details, LIMIT_S, task.file) == {"image": "uint8", "scores": "int8"}
    raw = np.random.default_rng(0).integers(0, 256, size=(9, 8, 8, 1), dtype=np.uint8)
    from_bytes, from_floats = (
        server.run(lowerings.answers_to_raw, LIMIT_S, task.file, raw),
        server.run(
            lowerings.answers, LIMIT_S, task.file, "scores", {"image": low + raw * np.float32((high - low) / 255)}
        ),
    )
    np.testing.assert_allclose(from_bytes, from_floats, atol=0.02)


@pytest.mark.parametrize(
    ("ranges", "says"),
    [
        ({"image": (1.0, 2.0)}, r"'image' can't take raw bytes: 0 would have to be stored as .*include 0"),
        ({"photo": (0.0, 1.0)}, r"no input 'photo' to take raw bytes; there are \['image'\]"),
    ],
)
def test_an_input_that_can_not_be_folded_is_refused(server, models, tmp_path, ranges, says):
    """Zero must be among the real values of a quantized tensor; a wrong name is no input."""
    task = lowerings.task(models / "cnn", recipe("int8"), tmp_path, input_ranges=ranges)
    with pytest.raises(VariantUnusable, match=says):
        server.run(lower, LIMIT_S, task)


def test_a_model_that_was_trained_for_quantization_converts(server, tmp_path):
    """Its float file imitates quantization, so that the int8 one is not made of it."""
    server.run(lowerings.quantization_aware, LIMIT_S, tmp_path / "model")
    task = lowerings.task(tmp_path / "model", recipe("int8"), tmp_path)
    server.run(lower, LIMIT_S, task)
    assert server.run(lowerings.details, LIMIT_S, task.file) == {"image": "int8", "scores": "int8"}
    assert not task.float_file.exists()


def test_a_conversion_that_kills_its_process_leaves_nothing_half_done(server, models, tmp_path):
    """TensorFlow's calibration can't run the loop of an LSTM; the recipes without ranges are none the worse."""
    steps = TensorSpec(name="steps", dtype="float32", shape=(1, 6, 3))
    forecast = TensorSpec(name="forecast", dtype="float32", shape=(1, 2))
    lstm = Signature(name="serving_default", inputs=(steps,), outputs=(forecast,))
    np.save(tmp_path / "steps.npy", np.ones((3, 6, 3), np.float32))
    data = Dataset(origin="steps", samples=3, files={"steps": tmp_path / "steps.npy"}, keeps_axis=True)
    task = lowerings.task(models / "lstm", recipe("int8"), tmp_path, signatures=(lstm,), calibration=data)
    with pytest.raises(TaskCrashed, match="SIGSEGV"):
        server.run(lower, LIMIT_S, task)
    assert not task.file.exists()
    assert not task.calibrated_file.exists()
    for name in ("float32", "dynamic", "int4"):
        server.run(lower, LIMIT_S, dataclasses.replace(task, recipe=recipe(name)))


@pytest.mark.parametrize("name", ["float16", "dynamic", "int16x8", "int4"])
def test_a_model_that_was_trained_for_int8_has_no_other_form(server, tmp_path, name):
    """TensorFlow would write int8 under each of these names, or what does not run."""
    server.run(lowerings.quantization_aware, LIMIT_S, tmp_path / "model")
    task = lowerings.task(tmp_path / "model", recipe(name), tmp_path, calibration=lowerings.images(tmp_path))
    with pytest.raises(VariantUnusable, match=f"trained for int8.*{name} would be the same"):
        server.run(lower, LIMIT_S, task)
