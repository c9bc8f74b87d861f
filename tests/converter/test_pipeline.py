import errno
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from support import converter_crashes, converter_models

from converter import pipeline
from converter.artifact import Package, PackageExists, archive_path, install, installed
from converter.config import ConvertOptions
from converter.errors import DataInvalid, NoVariantMade, OptionInvalid, SourceInvalid, TaskTimedOut

pytestmark = pytest.mark.slow


def by_name(result):
    return {one.name: one for one in result.variants}


def test_a_package_has_three_measured_variants(cnn_package):
    """All three recipes work on a plain CNN, and what is returned is what the manifest says."""
    result, output = cnn_package
    manifest = Package.open(result.package).manifest
    assert result.package == str(output / "cnn" / "1")
    assert [(one.name, one.status) for one in result.variants] == [
        ("float32", "ok"),
        ("dynamic", "ok"),
        ("int8", "ok"),
    ]
    assert [one.metrics for one in result.variants] == [one.metrics for one in manifest.variants]
    assert manifest.evaluation_samples == result.evaluation_samples == 200
    assert manifest.labels == ("north", "east", "south", "west")
    assert manifest.preprocess.inputs["image"].scale == 0.0625
    assert set(manifest.tools) == {"ai-edge-litert", "converter", "numpy", "tensorflow"}
    assert result.notes == ()


def test_the_originals_accuracy_is_that_of_its_labels(cnn_package):
    """Five of the 200 labels were made wrong: the original has 97.5 %, and so has its float32 form."""
    result, _ = cnn_package
    assert result.source_metrics == {"scores": {"accuracy": 0.975}}
    assert by_name(result)["float32"].metrics["scores"]["accuracy"] == 0.975
    assert by_name(result)["float32"].metrics["scores"]["sqnr_db"] > 100


def test_quantized_variants_are_smaller_and_close(cnn_package):
    """int8 weights take less room, and the answers stay."""
    variants = by_name(cnn_package[0])
    for name in ("dynamic", "int8"):
        assert variants[name].size_bytes < variants["float32"].size_bytes
        assert variants[name].metrics["scores"]["top1_agreement"] > 0.95
        assert variants[name].metrics["scores"]["sqnr_db"] > 20


def test_the_chosen_variant_is_there(cnn_package):
    """`default` names a variant that is ok."""
    result, _ = cnn_package
    assert by_name(result)[result.chosen["default"]].status == "ok"


def test_the_measured_agreement_is_what_bare_litert_gives(cnn_package, server, models):
    """The int8 figure, computed again with nothing of this project but the manifest's quantization."""
    result, _ = cnn_package
    package = Package.open(result.package)
    variant = package.manifest.variant("int8")
    image = converter_models.images(200, seed=2)
    spec, out = variant.signatures[0].inputs[0], variant.signatures[0].outputs[0]
    (scale,), (zero,) = spec.quantization.scales, spec.quantization.zero_points
    stored = np.clip(np.round(image / scale) + zero, -128, 127).astype(np.int8)
    scores = server.run(converter_models.lite_outputs, 60.0, package.file(variant), {"image": stored})["scores"]
    original = server.run(converter_models.answers, 60.0, models / "cnn", {"image": image})["scores"]
    agreement = (scores.argmax(axis=1) == original.argmax(axis=1)).mean()
    assert variant.metrics["scores"]["top1_agreement"] == pytest.approx(agreement, abs=0.0051)
    real = (scores.astype(np.float64) - out.quantization.zero_points[0]) * out.quantization.scales[0]
    assert variant.metrics["scores"]["rmse"] == pytest.approx(np.sqrt(((real - original) ** 2).mean()), rel=0.02)


def test_the_manifest_keeps_the_originals_tensors_and_each_variant_its_own(cnn_package):
    """Callers see float32 [-1, 8, 8, 1]; the int8 file takes int8 with a scale, and keeps its variable batch."""
    manifest = Package.open(cnn_package[0].package).manifest
    assert str(manifest.signatures[0].input("image")) == "float32[-1, 8, 8, 1]"
    assert manifest.signatures[0].batch_axis == 0
    int8 = manifest.variant("int8").signatures[0]
    assert str(int8.input("image")) == "int8[-1, 8, 8, 1]"
    assert str(int8.output("scores")) == "int8[-1, 4]"
    assert int8.input("image").quantization.scales[0] == pytest.approx(1 / 255, rel=0.01)
    assert manifest.variant("dynamic").signatures[0].input("image").quantization is None


def test_the_same_inputs_give_the_same_bytes(cnn_package, convert, data, tmp_path):
    """A second conversion's archive has the same SHA-256."""
    convert(
        "cnn",
        tmp_path,
        calibration=data / "train.npz",
        evaluation=data / "test.npz",
        labels=data / "labels.txt",
        preprocess=data / "preprocess.toml",
    )
    manifests = [(root / "cnn" / "1" / "manifest.json").read_text() for root in (cnn_package[1], tmp_path)]
    assert manifests[0] == manifests[1]
    first, second = (archive_path(root, "cnn", 1).read_bytes() for root in (cnn_package[1], tmp_path))
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()


def test_the_archive_installs_to_the_same_package(cnn_package, tmp_path):
    """What goes to a device is what was measured."""
    result, output = cnn_package
    assert install(archive_path(output, "cnn", 1), tmp_path).digest == Package.open(result.package).digest


def test_another_signature_can_be_converted(convert, data, tmp_path):
    """Its outputs are numbers and no classes: labels are not used, and the user is told."""
    result = convert("cnn", tmp_path, signature="brightness", evaluation=data / "test.npz")
    metrics = by_name(result)["float32"].metrics["mean"]
    assert set(metrics) == {"relative_rmse", "rmse", "sqnr_db"}
    assert any("labels were not used" in note for note in result.notes)


def test_without_calibration_data_int8_is_refused_and_the_others_are_made(convert, data, tmp_path):
    """The reason is in the result."""
    result = convert("cnn", tmp_path, evaluation=data / "test.npz")
    assert [one.status for one in result.variants] == ["ok", "ok", "refused"]
    assert "no calibration data" in by_name(result)["int8"].error
    assert set(Package.open(result.package).manifest.files) == {"dynamic.tflite", "evaluation.json", "float32.tflite"}


def test_without_evaluation_data_only_numeric_error_is_measured(convert, data, tmp_path):
    """The result says so in words, the manifest with 0 samples, and float32 is chosen."""
    result = convert("cnn", tmp_path, calibration=data / "train.npz")
    assert result.evaluation_samples == 0
    assert result.source_metrics == {}
    assert "accuracy" not in by_name(result)["int8"].metrics["scores"]
    assert by_name(result)["int8"].metrics["scores"]["sqnr_db"] > 20
    assert any("Accuracy was not measured" in note for note in result.notes)
    assert result.chosen == {"default": "float32"}


def test_without_any_data_variants_are_still_run(convert, tmp_path):
    """On zeros; nothing is measured, and the result says that."""
    result = convert("cnn", tmp_path)
    assert [one.status for one in result.variants] == ["ok", "ok", "refused"]
    assert all(one.metrics == {} for one in result.variants)
    assert any("Nothing was measured" in note for note in result.notes)


def test_inputs_are_calibrated_by_name(convert, tmp_path):
    """Three inputs of the same shape and other ranges: each gets the scale of its own data."""
    random = np.random.default_rng(0)
    ranges = {"zeta": 100, "alpha": 1, "mid": 10}
    np.savez(tmp_path / "data.npz", **{name: random.uniform(0, high, (200, 4)) for name, high in ranges.items()})
    result = convert("three_inputs", tmp_path, calibration=tmp_path / "data.npz", evaluation=tmp_path / "data.npz")
    assert by_name(result)["int8"].metrics["sum"]["sqnr_db"] > 30
    specs = Package.open(result.package).manifest.variant("int8").signatures[0]
    for name, high in ranges.items():
        assert specs.input(name).quantization.scales[0] == pytest.approx(high / 255, rel=0.05)


def test_a_model_without_batch_is_converted_and_measured(convert, tmp_path):
    """Samples go in one at a time; a scalar integer output is compared too."""
    np.savez(tmp_path / "data.npz", matrix=np.random.default_rng(0).normal(size=(20, 3, 5)))
    result = convert("one_by_one", tmp_path, evaluation=tmp_path / "data.npz")
    assert by_name(result)["float32"].status == "ok"
    assert by_name(result)["float32"].metrics["positive"] == {"equal": 1.0}
    assert Package.open(result.package).manifest.signatures[0].batch_axis is None


def test_a_conversion_that_ends_its_process_is_a_failed_variant_and_nothing_else(convert, tmp_path):
    """The int8 conversion of an LSTM dies of a real segmentation fault; the other two variants are published."""
    np.savez(tmp_path / "data.npz", steps=np.random.default_rng(0).normal(size=(20, 6, 3)))
    steps = []
    result = convert(
        "lstm", tmp_path, calibration=tmp_path / "data.npz", evaluation=tmp_path / "data.npz", progress=steps.append
    )
    assert [one.status for one in result.variants] == ["ok", "ok", "failed"]
    assert by_name(result)["int8"].error == "conversion: its process was killed by SIGSEGV"
    assert set(Package.open(result.package).manifest.files) == {"dynamic.tflite", "evaluation.json", "float32.tflite"}
    assert any("Segmentation fault" in step.log for step in steps)
    assert steps[-1].done == steps[-1].total


def test_a_model_that_tflite_can_not_express_publishes_nothing(convert, tmp_path):
    """The operators are named once for all variants, and the result tells of each."""
    with pytest.raises(NoVariantMade, match=r"no variant can run.*MatrixDeterminant") as caught:
        convert("flex", tmp_path)
    assert [one.status for one in caught.value.result.variants] == ["refused"] * 3
    assert caught.value.result.package is None
    assert list(tmp_path.iterdir()) == []


def test_a_time_limit_is_kept(server, models, data, tmp_path):
    """Where even reading the model takes too long, the source is refused with the reason."""
    options = ConvertOptions(saved_model=models / "cnn", name="cnn", version=1, output=tmp_path, time_limit_s=0.001)
    with pytest.raises(SourceInvalid, match=r"time limit of 0\.001 s") as caught:
        pipeline.run(options, server=server)
    assert isinstance(caught.value.__cause__, TaskTimedOut)


def test_a_version_that_is_there_is_refused_before_anything_runs(cnn_package, models):
    """No server is started, nothing is changed; `replace` would do it."""
    _, output = cnn_package
    with pytest.raises(PackageExists, match="--replace"):
        pipeline.convert(saved_model=models / "cnn", name="cnn", version=1, output=output)


def test_replace_makes_the_version_anew(convert, tmp_path):
    """The new package stands where the old one did."""
    first = convert("cnn", tmp_path)
    again = convert("cnn", tmp_path, replace=True, signature="brightness")
    assert first.package == again.package
    assert Package.open(again.package).manifest.signatures[0].name == "brightness"


def test_a_report_goes_with_the_package_that_is_replaced(convert, tmp_path):
    """Without `report` the new package has none, rather than that of another one."""
    options = {"variants": ("float32",), "replace": True}
    assert convert("cnn", tmp_path, **options, report=True).report == str(tmp_path / "cnn-1.html")
    assert (tmp_path / "cnn-1.html").is_file()
    assert convert("cnn", tmp_path, **options).report is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cnn", "cnn-1.tar.gz"]


def test_what_can_not_be_written_is_refused_before_anything_runs(models, tmp_path):
    """A directory in the place of the report or of the archive, and a file in that of `assets.extra`."""
    out, version = tmp_path / "out", tmp_path / "1"
    options = {"saved_model": models / "cnn", "name": "cnn", "version": 1, "output": out, "replace": True}
    (out / "cnn-1.html").mkdir(parents=True)
    with pytest.raises(OptionInvalid, match=r"report: .*cnn-1\.html: a directory"):
        pipeline.convert(**options, report=True)
    (out / "cnn-1.tar.gz").mkdir()
    with pytest.raises(PackageExists, match=r"cnn-1\.tar\.gz: is a directory"):
        pipeline.convert(**options)
    (out / "cnn-1.tar.gz").rmdir()
    shutil.copytree(models / "cnn", version)
    (version / "assets.extra").write_text("in the way")
    with pytest.raises(OptionInvalid, match=r"into: .*assets\.extra is no directory"):
        pipeline.convert(**options, into=version)


def test_a_package_laid_into_its_own_source_comes_out_the_same_again(convert, models, tmp_path):
    """The source's digest does not count it, and a second one of that version is laid there only where told to."""
    version = tmp_path / "1"
    shutil.copytree(models / "cnn", version)
    options = {"saved_model": version, "variants": ("float32",), "into": version}
    first = convert("cnn", tmp_path / "first", **options)
    with pytest.raises(PackageExists, match="edge_package: holds cnn version 1 already"):
        convert("cnn", tmp_path / "second", **options)
    second = convert("cnn", tmp_path / "second", **options, replace=True)
    laid = version / "assets.extra" / "edge_package"
    assert Package.open(first.package).digest == Package.open(second.package).digest == Package.open(laid).digest


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"signature": "predict"}, SourceInvalid, "it has: brightness, serving_default"),
        ({"calibration": "none.npz"}, DataInvalid, "no such file"),
        ({"labels": "none.txt"}, OptionInvalid, "no such file"),
        ({"evaluation": "wrong_name.npz"}, DataInvalid, "no array for input 'image'; .*picture"),
        ({"evaluation": "labels_too_high.npz"}, DataInvalid, r"label 7 of sample 1; output 'scores' has 4 classes"),
        ({"calibration": "nan.npz"}, DataInvalid, "sample 2 holds nan"),
        ({"labels": "three.txt"}, DataInvalid, "3 class names"),
        ({"preprocess": "sound.toml"}, DataInvalid, "'sound' is no input"),
    ],
)
def test_bad_input_is_refused_with_its_place_and_publishes_nothing(convert, tmp_path, options, error, says):
    """Each fault in what was given is one error with the value and what was expected."""
    images = converter_models.images(4)
    np.savez(tmp_path / "wrong_name.npz", picture=images)
    np.savez(tmp_path / "labels_too_high.npz", image=images, labels=np.array([0, 7, 1, 2]))
    images[2, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", image=images)
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    (tmp_path / "sound.toml").write_text("[inputs.sound]\nscale = 2.0\n")
    paths = {name: tmp_path / value if "." in value else value for name, value in options.items()}
    with pytest.raises(error, match=says):
        convert("cnn", tmp_path / "out", **paths)
    assert installed(tmp_path / "out") == {}


def test_an_output_that_can_not_be_written_is_refused_at_once(models, tmp_path):
    """A file in the way is found before TensorFlow is loaded."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OptionInvalid, match="output"):
        pipeline.convert(saved_model=models / "cnn", name="cnn", version=1, output=tmp_path / "file" / "packages")


def test_a_full_disk_publishes_nothing(convert, tmp_path, monkeypatch):
    """An error of the system while the package is written leaves the folder as it was."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("converter.artifact.store.pack", full)
    with pytest.raises(OSError, match="No space left"):
        convert("cnn", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_parent_never_imports_tensorflow(models, tmp_path):
    """A user's script without a main guard converts, and its own process has loaded neither TensorFlow nor LiteRT."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from converter.pipeline import convert
        result = convert(saved_model=sys.argv[1], name="cnn", version=7, output=sys.argv[2], variants=["float32"])
        print(result.to_dict()["package"])
        print([name for name in ("tensorflow", "ai_edge_litert") if name in sys.modules])
        """)
    )
    command = [sys.executable, script, models / "cnn", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / "out" / "cnn" / "7"), "[]"]
    assert done.stderr == ""


def test_no_temporary_files_are_left(convert, tmp_path, monkeypatch):
    """Data, outputs and variants that were laid out on the way are gone, after success and after failure."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    convert("cnn", tmp_path / "out")
    with pytest.raises(SourceInvalid):
        convert("cnn", tmp_path / "out2", signature="none")
    assert list((tmp_path / "temp").iterdir()) == []


def test_the_server_survives_all_this(server):
    """The fork server that every test above used still answers."""
    assert server.run(converter_crashes.add, 10.0, 1) == 1
