import numpy as np
import pytest

from converter.data import Dataset
from converter.errors import DataInvalid
from converter.evaluate import make_reference


@pytest.fixture
def reference(tmp_path):
    """A reference from output arrays and labels."""

    def made(labels=None, *, use_labels=True, **outputs):
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
        return make_reference(dataset, files, use_labels=use_labels)

    return made


def test_labels_belong_to_the_outputs_that_have_their_classes(reference):
    """Of two outputs with scores, the one with too few classes is not held against the labels."""
    found = reference([0, 2], few=np.eye(2), many=np.eye(3)[:2], values=np.zeros((2, 5, 5)))
    assert found.scores == {"few", "many"}
    assert found.labelled == {"many"}
    assert found.metrics() == {"many": {"accuracy": 0.5}}


def test_labels_beyond_every_output_are_refused(reference):
    """The label, its sample and the number of classes are named."""
    with pytest.raises(DataInvalid, match=r"label 4 of sample 1; output 'y' has 3 classes, 0 to 2"):
        reference([0, 4], y=np.eye(3)[:2])


def test_without_scores_labels_are_left_alone(reference):
    """A regression's labels are not checked against anything."""
    found = reference([0, 400], y=np.zeros((2, 1)))
    assert found.labelled == frozenset()
    assert found.metrics() == {}


def test_labels_of_calibration_data_are_not_used(reference):
    """Accuracy on data that the quantization has seen is no accuracy."""
    assert reference([0, 1], use_labels=False, y=np.eye(2)).metrics() == {}


def test_strings_are_not_compared(reference):
    """They are left out of what is measured."""
    assert list(reference(y=np.zeros((2, 1)), words=np.array([b"a", b"b"])).arrays()) == ["y"]
