import numpy as np
import pytest
from support import converter_models, source_models

from converter.config import ConvertOptions
from converter.pipeline import run

QUICK = {"variants": ("float32", "dynamic", "int8"), "measure_latency": False}
"""What most tests ask for; those of the other variants say so."""


@pytest.fixture(scope="session")
def server(tensorflow):
    """One fork server with TensorFlow for all tests."""
    return tensorflow


@pytest.fixture(scope="session")
def models(server, tmp_path_factory):
    """The folder of SavedModels."""
    folder = tmp_path_factory.mktemp("models")
    server.run(converter_models.build_all, 120.0, folder)
    return folder


@pytest.fixture(scope="session")
def data(server, models, tmp_path_factory):
    """`train.npz` and `test.npz` for the cnn; the labels are its own answers, but for 5 of 200."""
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "train.npz", image=converter_models.images(300, seed=1))
    image = converter_models.images(200, seed=2)
    labels = server.run(converter_models.answers, 60.0, models / "cnn", {"image": image})["scores"].argmax(axis=1)
    labels[:5] = (labels[:5] + 1) % converter_models.CLASSES
    np.savez(folder / "test.npz", image=image, labels=labels)
    (folder / "labels.txt").write_text("north\neast\nsouth\nwest\n")
    (folder / "preprocess.toml").write_text("[inputs.image]\nscale = 0.0625\n")
    return folder


@pytest.fixture(scope="session")
def convert(server, models):
    """Converts a model by its name, with the shared server."""

    def converted(model, output, **options):
        fields = {"saved_model": models / model, "name": model, "version": 1, "output": output, **QUICK, **options}
        if "signature" in fields:
            fields["signatures"] = (fields.pop("signature"),)
        progress = fields.pop("progress", lambda _: None)
        return run(ConvertOptions(**fields), progress, server)

    return converted


@pytest.fixture(scope="session")
def cnn_package(convert, data, tmp_path_factory):
    """The result and the folder of one conversion of the cnn with everything given."""
    output = tmp_path_factory.mktemp("packages")
    result = convert(
        "cnn",
        output,
        calibration=data / "train.npz",
        evaluation=data / "test.npz",
        labels=data / "labels.txt",
        preprocess=data / "preprocess.toml",
    )
    return result, output


@pytest.fixture(scope="session")
def sources(server, tmp_path_factory):
    """The folder of models of every kind."""
    folder = tmp_path_factory.mktemp("sources")
    server.run(source_models.build_all, 240.0, folder)
    return folder
