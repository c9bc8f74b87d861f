import msgspec
import numpy as np
import pytest
from support import converter_models, lite_variants

from converter.artifact import Signature, TensorSpec
from converter.data import Dataset, load_npz
from converter.errors import DataInvalid, OptionInvalid, VariantUnusable
from converter.evaluate import RUN_OUTPUT_BYTES, _rows, blank, check_and_measure, make_reference

LIMIT_S = 60.0
IMAGE = TensorSpec(name="image", dtype="float32", shape=(-1, 8, 8, 1))
CNN = Signature(
    name="serving_default",
    inputs=(IMAGE,),
    outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, 4)),),
    batch_axis=0,
)
BRIGHTNESS = Signature(
    name="brightness",
    inputs=(IMAGE,),
    outputs=(TensorSpec(name="mean", dtype="float32", shape=(-1,)),),
    batch_axis=0,
)
KINDS = Signature(
    name="serving_default",
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
    outputs=(
        TensorSpec(name="forecast", dtype="float32", shape=(-1, 1)),
        TensorSpec(name="ids", dtype="int32", shape=(-1,)),
        TensorSpec(name="notes", dtype="float32", shape=(-1, 4, 6)),
        TensorSpec(name="scores", dtype="float32", shape=(-1, 3)),
    ),
    batch_axis=0,
)


@pytest.fixture
def reference(tmp_path):
    """A reference from output arrays and labels."""

    def made(labels=None, *, use_labels=True, metrics=None, **outputs):
        files = {}
        for name, array in outputs.items():
            files[name] = tmp_path / f"{name}.npy"
            np.save(files[name], array)
        labels_file = None
        if labels is not None:
            labels_file = tmp_path / "labels.npy"
            np.save(labels_file, np.array(labels))
        samples = len(next(iter(outputs.values())))
        dataset = Dataset(origin="test.npz", samples=samples, files={}, labels_file=labels_file)
        return make_reference(dataset, files, use_labels=use_labels, metrics=metrics)

    return made


def test_labels_belong_to_the_outputs_that_have_their_classes(reference):
    """Of two outputs with scores, the one with too few classes is not held against the labels."""
    found = reference([0, 2], few=np.eye(2), many=np.eye(3)[:2], values=np.zeros((2, 5, 5)))
    assert found.labelled == {"many"}
    assert found.metrics() == {"many": {"accuracy": 0.5}}


def test_labels_beyond_every_output_are_refused(reference):
    """The label, its sample and the number of classes are named."""
    with pytest.raises(DataInvalid, match=r"label 4 of sample 1; output 'y' has 3 classes, 0 to 2"):
        reference([0, 4], y=np.eye(3)[:2])


def test_labels_of_calibration_data_are_not_used(reference):
    """Accuracy on data that the quantization has seen is no accuracy."""
    found = reference([0, 1], use_labels=False, y=np.eye(2))
    assert found.metrics() == {}
    assert found.labels() is None


def test_the_original_has_its_own_top_k_and_function(reference):
    """What a loss is counted from."""
    found = reference([0, 1, 0], metrics={"y": "topk:2"}, y=np.eye(3))
    assert found.metrics() == {"y": {"accuracy": 0.666667, "top2_accuracy": 1.0}}
    found = reference([0, 1, 1], metrics={"y": "support.converter_data:share_right"}, y=np.eye(3))
    assert found.metrics() == {"y": {"accuracy": 0.666667, "share_right": 0.666667}}


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("support.converter_data:none", "has no 'none'"),
        ("support.converter_data:not_finite", "returned nan; a finite number"),
        ("support.converter_data:rows", "raised TypeError"),
    ],
)
def test_a_function_that_is_no_metric_is_refused_before_any_variant(reference, metric, says):
    """It is called once with the original on both sides."""
    with pytest.raises(OptionInvalid, match=says):
        reference([0, 1, 1], metrics={"y": metric}, y=np.eye(3))


def test_blank_inputs_fit_the_signature():
    """Variable dimensions are 1, the batch is as asked."""
    inputs = blank(CNN, rows=2).inputs
    assert inputs["image"].shape == (2, 8, 8, 1)
    assert inputs["image"].dtype == np.float32


def test_batches_are_bounded_by_what_comes_out(reference):
    """A model that gives 4 MB for each number is run on four samples at a time."""
    found = reference(y=np.zeros((5, 2**20), np.float32))
    assert _rows(found, found.arrays()) == RUN_OUTPUT_BYTES // 2**22


@pytest.fixture(scope="module")
def variants(server, models, tmp_path_factory):
    """A folder with TFLite files of these tests' models."""
    folder = tmp_path_factory.mktemp("variants")
    samples = {"image": converter_models.images(40, seed=1)}
    server.run(lite_variants.build_outputs, LIMIT_S, folder)
    both = ("serving_default", "brightness")
    server.run(lite_variants.lower, LIMIT_S, models / "cnn", folder / "both.tflite", both)
    server.run(lite_variants.lower, LIMIT_S, models / "cnn", folder / "int8.tflite", samples=samples, io="int8")
    server.run(lite_variants.lower, LIMIT_S, models / "cnn", folder / "uint8.tflite", samples=samples, io="uint8")
    server.run(lite_variants.lower, LIMIT_S, models / "lstm", folder / "lstm.tflite")
    numbers = {"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)}
    server.run(lite_variants.lower, LIMIT_S, folder / "kinds", folder / "kinds.tflite")
    server.run(lite_variants.lower, LIMIT_S, folder / "kinds", folder / "kinds8.tflite", samples=numbers, io="int8")
    server.run(lite_variants.lower, LIMIT_S, folder / "words", folder / "words.tflite")
    server.run(lite_variants.lower, LIMIT_S, folder / "text", folder / "text.tflite")
    return folder


@pytest.fixture
def asked(server, tmp_path):
    """Asks an original and makes the reference of its answers."""

    def made(saved_model, signature, *, use_labels=True, metrics=None, **arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        dataset = load_npz(tmp_path / "data.npz", signature, tmp_path / "data")
        outputs = server.run(lite_variants.answered, LIMIT_S, saved_model, dataset, tmp_path / "original")
        return server.run(make_reference, LIMIT_S, dataset, outputs, use_labels=use_labels, metrics=metrics)

    return made


def cnn_data(server, models, wrong=20):
    """Images and the cnn's own answers as labels, but for some."""
    image = converter_models.images(200, seed=2)
    labels = server.run(converter_models.answers, LIMIT_S, models / "cnn", {"image": image})["scores"].argmax(axis=1)
    labels[:wrong] = (labels[:wrong] + 1) % converter_models.CLASSES
    return {"image": image, "labels": labels}


@pytest.mark.slow
def test_a_faithful_variant_loses_nothing(server, models, variants, asked):
    """The float file has the original's accuracy, escalates nothing, and its signature is told as it is."""
    reference = asked(models / "cnn", CNN, **cnn_data(server, models))
    found = server.run(check_and_measure, LIMIT_S, variants / "both.tflite", (CNN, BRIGHTNESS), reference)
    assert found.signatures == (CNN, BRIGHTNESS)
    assert found.metrics["scores"]["accuracy"] == reference.metrics()["scores"]["accuracy"] == 0.9
    assert found.outputs["scores"].loss_points == 0.0
    assert found.outputs["scores"].reference_points == 90.0
    assert (found.cascade.escalation_rate, found.cascade.source_accuracy) == (0.0, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["int8", "uint8"])
def test_integer_inputs_are_fed_real_values(server, models, variants, asked, stored):
    """By the file's own quantization; the figures agree with what was counted by hand from bare LiteRT."""
    data = cnn_data(server, models)
    reference = asked(models / "cnn", CNN, **data)
    found = server.run(check_and_measure, LIMIT_S, variants / f"{stored}.tflite", (CNN,), reference)
    spec = found.signatures[0].inputs[0]
    assert spec.dtype == stored
    fed = spec.quantization.quantize(data["image"], stored)
    answers = server.run(converter_models.lite_outputs, LIMIT_S, variants / f"{stored}.tflite", {"image": fed})
    right = (answers["scores"].argmax(axis=1) == data["labels"]).mean()
    assert found.metrics["scores"]["accuracy"] == pytest.approx(right, abs=1e-6)
    assert found.outputs["scores"].loss_points == pytest.approx(90 - 100 * right, abs=1e-4)
    assert sum(one.samples for one in found.outputs["scores"].classes) == 200
    assert sum(map(sum, found.outputs["scores"].confusion)) == 200
    assert len(found.outputs["scores"].worst) == 10


@pytest.mark.slow
def test_every_kind_of_output_has_its_metric(server, variants, asked):
    """Scores, a map, a regression and ids in one model; measured twice, the same comes out."""
    numbers = np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32)
    reference = asked(variants / "kinds", KINDS, x=numbers)
    first, second = (
        server.run(check_and_measure, LIMIT_S, variants / "kinds8.tflite", (KINDS,), reference) for _ in range(2)
    )
    assert first == second
    told = {name: (one.kind, one.primary) for name, one in first.outputs.items()}
    assert told == {
        "forecast": ("regression", "relative_rmse"),
        "ids": ("classes", "equal"),
        "notes": ("map", "f1"),
        "scores": ("scores", "top1_agreement"),
    }
    assert set(first.metrics["ids"]) == {"equal"}
    assert all(0 <= one.loss_points < 10 for one in first.outputs.values())
    assert first.cascade is None


@pytest.mark.slow
def test_a_function_measures_all_samples_at_once(server, variants, asked):
    """The variant's answers reach it as one array; the loss is counted from the original's own."""
    numbers = np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32)
    labels = np.arange(300) % 3
    metrics = {"scores": "support.converter_data:share_right"}
    reference = asked(variants / "kinds", KINDS, x=numbers, labels=labels, metrics=metrics)
    found = server.run(check_and_measure, LIMIT_S, variants / "kinds.tflite", (KINDS,), reference)
    assert found.outputs["scores"].primary == "share_right"
    assert found.metrics["scores"]["share_right"] == found.metrics["scores"]["accuracy"]
    assert found.outputs["scores"].loss_points == 0.0


@pytest.mark.slow
def test_on_calibration_data_nothing_counts_as_lost(server, models, variants, asked):
    """Numeric error is given, but neither accuracy nor points nor a cascade."""
    reference = asked(models / "cnn", CNN, use_labels=False, **cnn_data(server, models))
    found = server.run(check_and_measure, LIMIT_S, variants / "int8.tflite", (CNN,), reference)
    assert set(found.metrics["scores"]) == {"rmse", "sqnr_db", "top1_agreement"}
    assert found.outputs["scores"].loss_points is None
    assert found.cascade is None


@pytest.mark.slow
def test_a_model_for_a_batch_of_one_is_measured_sample_by_sample(server, models, variants, asked):
    """Its file has a fixed batch, and so has the signature."""
    steps = TensorSpec(name="steps", dtype="float32", shape=(1, 6, 3))
    forecast = TensorSpec(name="forecast", dtype="float32", shape=(1, 2))
    signature = Signature(name="serving_default", inputs=(steps,), outputs=(forecast,))
    data = np.random.default_rng(0).normal(size=(20, 6, 3)).astype(np.float32)
    reference = asked(models / "lstm", signature, steps=data)
    found = server.run(check_and_measure, LIMIT_S, variants / "lstm.tflite", (signature,), reference)
    assert found.signatures == (signature,)
    assert found.metrics["forecast"]["relative_rmse"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name", "dtype", "values", "output"),
    [
        ("words", "number", "int64", np.array([0, 2, 7]), TensorSpec(name="word", dtype="string", shape=(-1,))),
        ("text", "word", "string", np.array(["two", "x"]), TensorSpec(name="number", dtype="int64", shape=(-1,))),
    ],
)
def test_strings_go_in_and_come_out(server, variants, asked, model, name, dtype, values, output):
    """They are compared as wholes."""
    given = TensorSpec(name=name, dtype=dtype, shape=(-1,))
    signature = Signature(name="serving_default", inputs=(given,), outputs=(output,), batch_axis=0)
    reference = asked(variants / model, signature, **{name: values})
    found = server.run(check_and_measure, LIMIT_S, variants / f"{model}.tflite", (signature,), reference)
    assert found.metrics == {output.name: {"equal": 1.0}}
    assert found.outputs[output.name].loss_points == 0.0


@pytest.mark.slow
def test_without_data_every_signature_is_run_on_zeros(server, variants):
    """Nothing is measured then, but a second signature that the file lacks is found."""
    found = server.run(check_and_measure, LIMIT_S, variants / "both.tflite", (CNN, BRIGHTNESS), None)
    assert (found.metrics, found.outputs, found.cascade) == ({}, {}, None)
    with pytest.raises(VariantUnusable, match=r"\['serving_default'\], not 'brightness'"):
        server.run(check_and_measure, LIMIT_S, variants / "int8.tflite", (CNN, BRIGHTNESS), None)


@pytest.mark.slow
def test_a_variant_that_is_another_model_is_refused(server, variants):
    """Its outputs have other names."""
    other = msgspec.structs.replace(CNN, outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 4)),))
    with pytest.raises(VariantUnusable, match=r"outputs \['scores'\], the original \['y'\]"):
        server.run(check_and_measure, LIMIT_S, variants / "int8.tflite", (other,), None)
