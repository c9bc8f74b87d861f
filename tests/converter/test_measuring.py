"""What a conversion's figures are about: which output, which signature, which bytes. Of real models."""

from pathlib import Path

import numpy as np
import pytest
from support import measured_models

from converter.artifact import Package
from converter.compare import compare
from converter.config import Budget
from converter.errors import OptionInvalid
from converter.findings import FINDINGS_FILE, decode

pytestmark = pytest.mark.slow

WRONG = 10


@pytest.fixture(scope="module")
def folder(server, tmp_path_factory):
    """The models, and data whose labels are what `species` (and `scores`) says, but for ten of 200."""
    made = tmp_path_factory.mktemp("measured")
    server.run(measured_models.build_all, 120.0, made)
    np.savez(made / "train.npz", image=measured_models.images(200, seed=1))
    image = measured_models.images(200, seed=2)
    labels = server.run(measured_models.answers, 60.0, made / "heads", image)["species"].argmax(axis=1)
    labels[:WRONG] = (labels[:WRONG] + 1) % measured_models.CLASSES
    np.savez(made / "test.npz", image=image, labels=labels)
    return made


@pytest.fixture
def measured(convert, folder, tmp_path):
    """Converts one of the models; the result and the package's manifest."""

    def made(model, **options):
        data = {"calibration": folder / "train.npz", "evaluation": folder / "test.npz"}
        result = convert(model, tmp_path / "out", saved_model=folder / model, replace=True, **data | options)
        return result, Package.open(result.package).manifest

    return made


def by_name(result):
    return {one.name: one.metrics for one in result.variants}


def test_labels_are_of_the_head_that_knows_them(measured):
    """Another head of as many classes is measured by agreement, a box by its error; the cascade is of the first."""
    result, manifest = measured("heads", variants=("float32", "int8"))
    assert result.source_metrics == {"species": {"accuracy": 0.95}}
    for metrics in by_name(result).values():
        assert "accuracy" in metrics["species"]
        assert metrics["colour"].keys() == {"rmse", "sqnr_db", "top1_agreement"}
        assert "relative_rmse" in metrics["box"]
    assert {one.cascade.output for one in manifest.variants} == {"species"}
    assert any("taken for output 'species'" in note and "'colour' (" in note for note in result.notes)


def test_who_asks_says_what_the_labels_are_of(measured):
    """Even where the original is bad at it, which is told."""
    result, manifest = measured("heads", variants=("float32",), metrics={"colour": "top1", "species": "agreement"})
    assert result.source_metrics.keys() == {"colour"}
    assert "accuracy" not in by_name(result)["float32"]["species"]
    assert manifest.variants[0].cascade.output == "colour"
    assert result.source_metrics["colour"]["accuracy"] < 0.32
    assert any("seem not to fit: on output 'colour'" in note for note in result.notes)


def test_a_constant_output_is_no_reason_against_float16(measured):
    """0.3 rounded to half of the digits is not a loss of a million times its spread."""
    result, _ = measured("heads", variants=("float32", "float16"))
    found = by_name(result)["float16"]["temperature"]
    assert 0 < found["rmse"] < 1e-3
    assert found["relative_rmse"] < 1e-3
    assert result.chosen == {"default": "float16"}


def test_every_signature_that_takes_the_data_is_measured_and_counts(measured, server, folder):
    """Its outputs go by the signature's name; what int8 costs them keeps it from being chosen."""
    options = {"budget": Budget(points=3), "search_time_s": 0}
    result, manifest = measured("signatures", signatures=("serving_default", "contrast"), **options)
    metrics = by_name(result)
    assert metrics["int8"].keys() == {"scores", "contrast:contrast", "contrast:mean"}
    assert metrics["float32"]["contrast:mean"]["relative_rmse"] < 1e-5
    assert metrics["int8"]["scores"]["accuracy"] > 0.93
    assert metrics["int8"]["contrast:contrast"]["relative_rmse"] > 0.04
    assert result.chosen["default"] != "int8"
    image = np.load(folder / "test.npz")["image"]
    truth = server.run(measured_models.answers, 60.0, folder / "signatures", image, "contrast")["contrast"]
    spec = manifest.variant("int8").signatures[1].input("image")
    file = Package.open(result.package).file(manifest.variant("int8"))
    stored = spec.quantization.quantize(image, spec.dtype)
    found = server.run(measured_models.lite_answers, 60.0, file, stored, "contrast")["contrast"]
    rmse = np.sqrt(np.square(found - truth, dtype=np.float64).mean())
    assert metrics["int8"]["contrast:contrast"]["rmse"] == pytest.approx(rmse, rel=1e-3)


def test_labels_go_to_another_signature_only_where_the_first_has_no_scores(measured):
    """The order of the signatures does not decide whether accuracy is measured."""
    result, manifest = measured("signatures", signatures=("contrast", "serving_default"), variants=("float32",))
    assert result.source_metrics == {"serving_default:scores": {"accuracy": 0.95}}
    assert by_name(result)["float32"].keys() == {"contrast", "mean", "serving_default:scores"}
    assert manifest.variants[0].cascade.output == "serving_default:scores"


def test_a_metric_can_name_a_signature(measured):
    """Of the first one its outputs go by both names."""
    metrics = {"contrast:mean": "sqnr", "serving_default:scores": "topk:2"}
    result, _ = measured(
        "signatures", signatures=("serving_default", "contrast"), variants=("float32",), metrics=metrics
    )
    found = decode((Path(result.package) / FINDINGS_FILE).read_bytes()).variants["float32"].outputs
    primary = {name: one.primary for name, one in found.items()}
    assert primary == {"contrast:contrast": "relative_rmse", "contrast:mean": "sqnr_db", "scores": "top2_accuracy"}
    assert result.source_metrics["scores"].keys() == {"accuracy", "top2_accuracy"}


def test_signatures_that_do_not_take_the_data_are_only_run(measured):
    """Each is told with the reason; nobody can ask for a metric of theirs."""
    signatures = ("serving_default", "other", "whole", "dark")
    result, _ = measured("signatures", signatures=signatures, variants=("float32",))
    assert by_name(result)["float32"].keys() == {"scores"}
    told = "signature 'other' was only run, not measured: the data are for 'serving_default'"
    assert f"{told}." in result.notes
    assert any("'whole' was only run" in note and "not one for each sample" in note for note in result.notes)
    assert any("'dark' was only run, not measured: the original fails on the data there" in one for one in result.notes)
    with pytest.raises(OptionInvalid, match=f"metric: 'other:sum': {told}"):
        measured("signatures", signatures=signatures, metrics={"other:sum": "rmse"})


def test_folded_inputs_are_measured_with_the_bytes_of_a_camera(convert, server, folder, tmp_path):
    """Of -1..1, whose zero point is no whole number: the figures are those of bare LiteRT that was given the bytes."""
    pixels = np.random.default_rng(3).integers(0, 256, size=(200, 8, 8, 1)).astype(np.uint8)
    image = (pixels / 127.5 - 1).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=image)
    (tmp_path / "p.toml").write_text("[inputs.image]\nscale = 0.00784313725490196\nmean = [1.0]\n")
    result = convert(
        "heads",
        tmp_path / "out",
        saved_model=folder / "heads",
        calibration=tmp_path / "data.npz",
        evaluation=tmp_path / "data.npz",
        preprocess=tmp_path / "p.toml",
        uint8_input=True,
        variants=("float32", "int8"),
    )
    package = Package.open(result.package)
    variant = package.manifest.variant("int8")
    assert variant.folded == ("image",)
    truth = server.run(measured_models.answers, 60.0, folder / "heads", image)["box"]

    def rmse(stored):
        found = server.run(measured_models.lite_answers, 60.0, package.file(variant), stored)["box"]
        return np.sqrt(np.square(found - truth, dtype=np.float64).mean())

    told = by_name(result)["int8"]["box"]["rmse"]
    spec = variant.signatures[0].input("image")
    assert told == pytest.approx(rmse(pixels), rel=1e-3)
    assert told != pytest.approx(rmse(spec.quantization.quantize(image, spec.dtype)), rel=1e-3)
    compared = compare(
        package.path, package.path, data=tmp_path / "data.npz", variants=("float32", "int8"), server=server
    )
    assert compared.metrics["box"]["rmse"] == pytest.approx(told, rel=1e-2)
