import numpy as np
import pytest

from fallback_server import classification
from fallback_server.core.errors import ExecutionFailed, InvalidInput
from fallback_server.executors.base import Signature, TensorSpec


def spec(name, dtype=object, shape=(-1,)):
    return TensorSpec(name=name, dtype=np.dtype(dtype), shape=shape)


def signature(outputs=("classes", "scores"), inputs=("inputs",), dtype=object, method=""):
    return Signature(
        name="s",
        inputs={name: spec(name, dtype) for name in inputs},
        outputs={name: spec(name, np.float32) for name in outputs},
        method=method,
    )


def strings(*rows):
    array = np.empty((len(rows), len(rows[0])), dtype=object)
    array[:] = rows
    return array


@pytest.mark.parametrize("outputs", [("classes",), ("scores",), ("classes", "scores")])
def test_a_classification_has_classes_or_scores_or_both(outputs):
    """The outputs that are read are those that there are."""
    assert classification.classify_outputs(signature(outputs)) == outputs


@pytest.mark.parametrize(
    ("reads", "wrong", "text"),
    [
        (classification.classify_outputs, signature(inputs=("a", "b")), "Expected one input Tensor."),
        (classification.classify_outputs, signature(inputs=("x",)), "No classification inputs found"),
        (classification.classify_outputs, signature(dtype=np.float32), "not serialized Examples"),
        (classification.classify_outputs, signature(("a", "b", "c")), "Expected one or two output Tensors, found 3"),
        (classification.classify_outputs, signature(("classes", "y")), "to contain only 'classes' and 'scores'"),
        (classification.regress_outputs, signature(("outputs", "y")), "Expected one output Tensor."),
        (classification.regress_outputs, signature(("y",)), "No regression outputs found"),
        (classification.regress_outputs, signature(("outputs",), inputs=()), "Expected one input Tensor."),
    ],
)
def test_a_signature_that_is_for_something_else_is_refused(reads, wrong, text):
    """What Classify and Regress can't read is refused before anything runs, in TensorFlow Serving's words."""
    with pytest.raises(InvalidInput, match=text):
        reads(wrong)


def test_the_method_name_counts_only_where_it_is_asked_for():
    """A model of TensorFlow 2, which says `predict` whatever it does, can be classified with by default."""
    one = signature(method="tensorflow/serving/predict")
    assert classification.classify_outputs(one)
    with pytest.raises(
        InvalidInput, match=r"method_name to be tensorflow/serving/classify. Was: tensorflow/serving/pred"
    ):
        classification.classify_outputs(one, check_method=True)
    own = signature(("outputs",), method=classification.REGRESS_METHOD)
    assert classification.regress_outputs(own, check_method=True) == ("outputs",)


def test_examples_become_one_string_each():
    """Serialized Examples stay the bytes that they are, also those that end in zeros."""
    array = classification.example_inputs([b"a\0", b""])["inputs"]
    assert array.tolist() == [b"a\0", b""]
    assert array.dtype == object
    with pytest.raises(InvalidInput, match="Input is empty"):
        classification.example_inputs([])


def test_classes_pair_labels_with_scores():
    """Each row is a list of its classes; what the model does not give is empty or 0."""
    labels, scores = strings((b"cat", "dög".encode())), np.array([[0.25, 0.75]], np.float32)
    assert classification.classes({"classes": labels, "scores": scores}, 1) == [[("cat", 0.25), ("dög", 0.75)]]
    assert classification.classes({"classes": labels}, 1) == [[("cat", 0.0), ("dög", 0.0)]]
    assert classification.classes({"scores": scores}, 1) == [[("", 0.25), ("", 0.75)]]


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"scores": np.zeros(2, np.float32)}, r"\[batch_size num_classes\] but got \[2\]"),
        ({"scores": np.zeros((3, 2), np.float32)}, "scores output batch size of 2. Got: 3"),
        ({"scores": np.zeros((2, 2))}, "DT_FLOAT. Was: float64"),
        ({"classes": np.zeros((2, 2), np.int64)}, "DT_STRING. Was: int64"),
        ({"classes": strings((b"a",), (b"b",)), "scores": np.zeros((2, 2), np.float32)}, "Got 1 vs. 2"),
    ],
)
def test_outputs_that_are_no_classification_are_the_models_fault(outputs, text):
    """Wrong shapes and dtypes are told, and never cut to fit."""
    with pytest.raises(ExecutionFailed, match=text):
        classification.classes(outputs, 2)


def test_regressions_are_one_number_a_row():
    """Both shapes that TensorFlow Serving takes; others are refused."""
    assert classification.regressions({"outputs": np.array([1, 2], np.float32)}, 2) == [1.0, 2.0]
    assert classification.regressions({"outputs": np.array([[1], [2]], np.float32)}, 2) == [1.0, 2.0]
    for wrong in (np.zeros((2, 2), np.float32), np.zeros(3, np.float32), np.zeros(2), np.zeros((), np.float32)):
        with pytest.raises(ExecutionFailed):
            classification.regressions({"outputs": wrong}, 2)
