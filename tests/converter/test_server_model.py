"""Thresholds for servers that have another model than the one that is converted. With real models."""

import numpy as np
import pytest
from support import converter_models, measured_models

from converter.artifact import Package
from converter.errors import OptionInvalid, SourceInvalid

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def better(server, models, tmp_path_factory):
    """A net of the same inputs and scores that is right where the cnn is wrong."""
    folder = tmp_path_factory.mktemp("better")
    server.run(_teach, 120.0, models / "cnn", folder / "model")
    return folder / "model"


def _teach(cnn, target):
    """The cnn's own scores in another order of classes: far from it, and known."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(cnn)).signatures["serving_default"]
    module = tf.Module()
    module.inner = loaded

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")])
    def serve(image):
        return {"scores": tf.roll(loaded(image=image)["scores"], 1, axis=1), "more": tf.shape(image)}

    tf.saved_model.save(module, str(target), signatures={"serving_default": serve})


@pytest.fixture(scope="module")
def shifted(server, models, better, tmp_path_factory):
    """Test images whose labels are what the other net answers; and the same without labels."""
    folder = tmp_path_factory.mktemp("shifted")
    image = converter_models.images(200, seed=2)
    scores = server.run(converter_models.answers, 60.0, models / "cnn", {"image": image})["scores"]
    theirs = (scores.argmax(axis=1) + 1) % converter_models.CLASSES
    np.savez(folder / "test.npz", image=image, labels=theirs)
    np.savez(folder / "unlabelled.npz", image=image)
    return folder


def test_the_threshold_is_found_against_what_servers_answer(convert, better, shifted, tmp_path):
    """A model that is always wrong where the servers' is right sends everything there; by itself it sends nothing."""
    options = {"evaluation": shifted / "test.npz", "variants": ("float32",)}
    alone = convert("cnn", tmp_path / "alone", **options)
    together = convert("cnn", tmp_path / "together", server_model=better, **options)
    own, found = (Package.open(one.package).manifest.variants[0].cascade for one in (alone, together))
    assert (own.escalation_rate, own.source_accuracy) == (0.0, 0.0)
    assert (found.escalation_rate, found.source_accuracy, found.accuracy) == (1.0, 1.0, 1.0)
    assert (found.output, found.confidence) == (own.output, own.confidence)
    assert together.source_metrics == alone.source_metrics
    assert any("found against model, which was named" in note for note in together.notes)


def test_data_without_labels_are_refused(convert, better, shifted, tmp_path):
    """Nothing says which of the two models is right, and the option is not passed over in silence."""
    with pytest.raises(OptionInvalid, match="server model: the evaluation data have no labels of class scores"):
        convert("cnn", tmp_path, server_model=better, evaluation=shifted / "unlabelled.npz", variants=("float32",))


def test_a_model_of_something_else_is_refused(convert, server, data, tmp_path):
    """Other scores, other inputs, no model at all: each is named."""
    server.run(measured_models.build_all, 120.0, tmp_path / "other")
    options = {"evaluation": data / "test.npz", "variants": ("float32",)}
    with pytest.raises(OptionInvalid, match=r"has no output 'scores'.*'?species"):
        convert("cnn", tmp_path / "out", server_model=tmp_path / "other" / "heads", **options)
    with pytest.raises(SourceInvalid, match="no such directory"):
        convert("cnn", tmp_path / "out", server_model=tmp_path / "nothing", **options)
