import json
from pathlib import Path

import numpy as np
import pytest
from support.converter_packages import publish_toy

from converter.artifact import Signature, TensorSpec, archive_path
from converter.compare import Compared, CompareResult, check_alike, compare, is_package
from converter.errors import OptionInvalid, VariantUnusable
from converter.findings import OutputFindings


def signature(inputs, outputs):
    def specs(names):
        return tuple(TensorSpec(name=name, dtype="float32", shape=(-1, 2)) for name in names)

    return Signature(name="serving_default", inputs=specs(inputs), outputs=specs(outputs), batch_axis=0)


def side(path, variant="int8", accuracy=0.96):
    return Compared(
        path=path, kind="package", variant=variant, size_bytes=13_720, metrics={"y": {"accuracy": accuracy}}
    )


def test_the_table_has_both_and_then_the_difference():
    """What is each one's own stands above, what is between them below."""
    result = CompareResult(
        first=side("a/1"),
        second=side("b/2", "float32", 0.97),
        samples=450,
        metrics={"y": {"accuracy": 0.97, "top1_agreement": 0.98, "sqnr_db": 31.4}},
        outputs={"y": OutputFindings(kind="scores", primary="accuracy", loss_points=-1.0)},
        notes=("A note.",),
    )
    assert result.table() == "\n".join(  # noqa: FLY002  the lines are easier to read so
        [
            "   model  variant  size     accuracy",
            "A  a/1    int8     13.7 kB  96.00%",
            "B  b/2    float32  13.7 kB  97.00%",
            "",
            "B against A, on 450 samples:",
            "output  agreement  SQNR     loss",
            "y       98.00%     31.4 dB  -1.00 pt",
            "",
            "A note.",
        ]
    )
    assert json.loads(json.dumps(result.to_dict()))["second"]["variant"] == "float32"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (signature(["x", "z"], ["y"]), r"a \(int8\) has the inputs \['x'\], b \(int8\) has \['x', 'z'\]"),
        (signature(["x"], ["scores"]), r"the outputs \['y'\], b \(int8\) has \['scores'\]"),
    ],
)
def test_models_of_other_names_are_not_compared(other, said):
    """Both sides are named; the order of names is none of a model's business."""
    check_alike(side("a"), signature(["x", "z"], ["y"]), side("b"), signature(["z", "x"], ["y"]))
    with pytest.raises(OptionInvalid, match=said):
        check_alike(side("a"), signature(["x"], ["y"]), side("b"), other)


def test_what_is_no_package_is_the_first(tmp_path):
    """The measure comes first: a package is compared with an original, not the other way round."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    assert is_package(package.path)
    assert is_package(archive_path(tmp_path / "out", "toy", 1))
    assert not is_package(tmp_path)
    with pytest.raises(OptionInvalid, match="give it first"):
        compare(package.path, tmp_path, data="none.npz")
    with pytest.raises(OptionInvalid, match="the second must be one"):
        compare(tmp_path, tmp_path, data="none.npz")


def test_more_variants_than_packages_are_refused(tmp_path):
    """Each package has one; an original has none."""
    package = publish_toy(tmp_path / "files", tmp_path / "out").path
    with pytest.raises(OptionInvalid, match="3 are named for 2 packages"):
        compare(package, package, data="none.npz", variants=("a", "b", "c"))
    with pytest.raises(OptionInvalid, match="2 are named for 1 package"):
        compare(tmp_path, package, data="none.npz", variants=("a", "b"))


@pytest.mark.slow
def test_two_variants_of_a_package(cnn_package, data, server):
    """The second is measured against the first, both against the labels, and the package's own figures come out."""
    package = cnn_package[1] / "cnn" / "1"
    found = compare(package, package, data=data / "test.npz", variants=("float32", "int8"), server=server)
    assert (found.first.variant, found.second.variant, found.samples) == ("float32", "int8", 200)
    told = {one.name: one.metrics["scores"] for one in cnn_package[0].variants}
    assert found.first.metrics == {"scores": {"accuracy": told["float32"]["accuracy"]}}
    assert found.second.metrics == {"scores": {"accuracy": told["int8"]["accuracy"]}}
    assert found.metrics["scores"]["sqnr_db"] == pytest.approx(told["int8"]["sqnr_db"], abs=0.1)
    assert "int8" in found.table()


@pytest.mark.slow
def test_an_original_and_a_package(cnn_package, models, data, server, tmp_path):
    """A SavedModel against an archive's chosen variant; without labels a note says what the figures are."""
    archive = archive_path(cnn_package[1], "cnn", 1)
    np.savez(tmp_path / "test.npz", image=np.load(data / "test.npz")["image"])
    found = compare(models / "cnn", archive, data=str(tmp_path / "test.npz"), server=server)
    assert (found.first.kind, found.first.variant) == ("saved_model", None)
    assert found.second.variant == cnn_package[0].chosen["default"]
    assert found.metrics["scores"]["top1_agreement"] > 0.9
    assert any("no labels" in note for note in found.notes)


@pytest.mark.slow
def test_a_variant_that_does_not_run_is_named(tmp_path, server):
    """Which of the two it is, and which of its variants."""
    package = publish_toy(tmp_path / "files", tmp_path / "out").path
    np.savez(tmp_path / "x.npz", image=np.zeros((2, 8, 8, 1), np.float32))
    with pytest.raises(VariantUnusable, match=rf"{package} \(float32\): "):
        compare(package, package, data=tmp_path / "x.npz", server=server)


@pytest.mark.slow
def test_a_variant_that_is_not_there_is_refused(cnn_package, data, server):
    """The known ones are listed."""
    package: Path = cnn_package[1] / "cnn" / "1"
    with pytest.raises(OptionInvalid, match=r"no 'int4'; there are float32, dynamic, int8"):
        compare(package, package, data=data / "test.npz", variants=("int4",), server=server)
