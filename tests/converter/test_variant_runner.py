import msgspec
import numpy as np
import pytest
from support import converter_models

from converter.artifact import Package
from converter.errors import TaskFailed, VariantUnusable
from converter.evaluate import check_and_measure

pytestmark = pytest.mark.slow


@pytest.fixture
def package(cnn_package):
    return Package.open(cnn_package[0].package)


def check(server, package, logical, variant="float32"):
    return server.run(check_and_measure, 60.0, package.file(package.manifest.variant(variant)), (logical,), None)


def test_a_file_is_described_as_the_manifest_says(server, package):
    """What LiteRT reads of the packed file is what was written into the manifest."""
    for variant in package.manifest.variants:
        found = check(server, package, package.manifest.signatures[0], variant.name)
        assert found.signatures == variant.signatures
        assert found.metrics == {}


def renamed(signature, kind, **changes):
    spec = msgspec.structs.replace(getattr(signature, kind)[0], **changes)
    return msgspec.structs.replace(signature, **{kind: (spec,)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: msgspec.structs.replace(one, name="other"), r"\['serving_default'\], not 'other'"),
        (lambda one: renamed(one, "inputs", name="picture"), r"inputs \['image'\], the original \['picture'\]"),
        (lambda one: renamed(one, "outputs", name="y"), r"outputs \['scores'\], the original \['y'\]"),
        (lambda one: renamed(one, "inputs", shape=(-1, 64)), r"shape \[-1, 8, 8, 1\], the original \[-1, 64\]"),
        (lambda one: renamed(one, "inputs", dtype="int32"), "is float32, the original int32"),
    ],
)
def test_a_file_that_is_not_the_originals_is_refused(server, package, change, says):
    """Other names, ranks and dtypes are each told with both sides."""
    with pytest.raises(VariantUnusable, match=says):
        check(server, package, change(package.manifest.signatures[0]))


def test_a_file_that_lost_its_variable_batch_is_refused(server, convert, tmp_path):
    """A file for a batch of one can't stand in for a model that takes any batch."""
    np.savez(tmp_path / "data.npz", steps=np.zeros((2, 6, 3)))
    package = Package.open(convert("lstm", tmp_path, evaluation=tmp_path / "data.npz").package)
    logical = package.manifest.signatures[0]
    specs = [
        msgspec.structs.replace(one[0], shape=(-1, *one[0].shape[1:])) for one in (logical.inputs, logical.outputs)
    ]
    batched = msgspec.structs.replace(logical, inputs=(specs[0],), outputs=(specs[1],), batch_axis=0)
    with pytest.raises(VariantUnusable, match="'steps' has lost its variable batch"):
        check(server, package, batched)


def test_a_file_that_is_no_model_is_a_failure_and_no_crash(server, package, tmp_path):
    """Bytes that LiteRT can't read are told as an error."""
    (tmp_path / "x.tflite").write_bytes(converter_models.images(1).tobytes())
    with pytest.raises(TaskFailed):
        server.run(check_and_measure, 60.0, tmp_path / "x.tflite", package.manifest.signatures, None)
