import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.cascade import MAX_LOSS, Evidence, confidence_kind, confidences, threshold


def one_hot(classes, sure=1.0):
    """Probabilities of three classes, the best of them `sure`."""
    classes, sure = np.asarray(classes), np.asarray(sure, np.float32) * np.ones(len(classes), np.float32)
    scores = np.repeat(((1 - sure) / 2)[:, np.newaxis], 3, axis=1)
    scores[np.arange(len(classes)), classes] = sure
    return scores.astype(np.float32)


def simulated(original, variant, labels, found):
    """Accuracy and escalation rate when a device goes by the threshold."""
    escalate = confidences(variant, found.confidence) < found.threshold
    answers = np.where(escalate, original.argmax(axis=1), variant.argmax(axis=1))
    return (answers == labels).mean(), escalate.mean()


def test_unsure_mistakes_are_escalated_and_no_more():
    """Two of ten are wrong, and the least sure: just those go to the server."""
    labels = np.zeros(10, int)
    variant = one_hot([1, 1] + [0] * 8, [0.4, 0.5] + [0.9] * 8)
    found = threshold(one_hot(labels), variant, labels, "y")
    assert found.escalation_rate == 0.2
    assert 0.5 < found.threshold < 0.9
    assert found.accuracy == found.source_accuracy == 1.0
    assert (found.output, found.confidence) == ("y", "max")


def test_a_variant_that_is_as_good_escalates_nothing():
    """Its own mistakes are the original's too."""
    labels = np.array([0, 0, 1, 2])
    scores = one_hot([0, 1, 1, 2], 0.6)
    found = threshold(scores, scores, labels, "y")
    assert (found.escalation_rate, found.threshold) == (0.0, 0.0)


def test_a_variant_that_is_surely_wrong_escalates_everything():
    """No confidence that was seen is enough."""
    labels = np.zeros(5, int)
    variant = one_hot([1] * 5, 0.9)
    found = threshold(one_hot(labels), variant, labels, "y")
    assert found.escalation_rate == 1.0
    assert found.threshold > confidences(variant, "max").max()


def test_a_tenth_of_a_point_may_be_lost():
    """One mistake in a thousand is let pass, two are not."""
    labels = np.zeros(1000, int)
    for wrong, rate in ((1, 0.0), (2, 0.001)):
        classes = np.array([1] * wrong + [0] * (1000 - wrong))
        sure = np.concatenate([np.linspace(0.4, 0.5, wrong), np.full(1000 - wrong, 0.9)])
        assert threshold(one_hot(labels), one_hot(classes, sure), labels, "y").escalation_rate == rate


def test_confidence_of_logits_is_their_softmax():
    """Large logits neither overflow nor count as they are."""
    logits = np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(3.0), -np.inf]])
    np.testing.assert_allclose(confidences(logits, "softmax"), [0.5, 0.75])
    assert confidence_kind(logits) == "softmax"
    assert confidence_kind(one_hot([0, 1])) == "max"


@pytest.mark.parametrize("scores", [np.zeros((3, 1)), np.zeros(3), np.zeros((3, 2, 2))])
def test_only_scores_of_labelled_data_have_a_threshold(scores):
    """There is nothing to tell right from wrong by."""
    assert threshold(scores, scores, np.zeros(3, int), "y") is None
    assert threshold(one_hot([0, 1]), one_hot([0, 1]), None, "y") is None


CASES = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([0.4, 0.5, 0.50000006, 0.7, 0.9])), min_size=1, max_size=60
)


@given(CASES)
def test_the_promise_holds_when_it_is_simulated(cases):
    """Accuracy and rate are as said, within the bound; no lower cut between confidences would do."""
    labels = np.zeros(len(cases), int)
    original = one_hot([0 if right else 1 for right, _, _ in cases])
    variant = one_hot([0 if right else 1 for _, right, _ in cases], [sure for _, _, sure in cases])
    found = threshold(original, variant, labels, "y")
    accuracy, rate = simulated(original, variant, labels, found)
    assert accuracy == pytest.approx(found.accuracy, abs=1e-5)
    assert rate == pytest.approx(found.escalation_rate, abs=1e-5)
    assert accuracy >= (original.argmax(axis=1) == labels).mean() - MAX_LOSS - 1e-12
    for lower in np.unique(confidences(variant, "max")):
        if lower < found.threshold and (confidences(variant, "max") < lower).mean() < rate:
            escalate = confidences(variant, "max") < lower
            right = np.where(escalate, original.argmax(axis=1) == labels, variant.argmax(axis=1) == labels).mean()
            assert right < found.source_accuracy - MAX_LOSS + 1e-5


@given(CASES, st.integers(1, 20))
def test_batches_do_not_matter(cases, step):
    """The evidence is the same however it comes in."""
    labels = np.zeros(len(cases), int)
    original = one_hot([0 if right else 1 for right, _, _ in cases])
    variant = one_hot([0 if right else 1 for _, right, _ in cases], [sure for _, _, sure in cases])
    evidence = Evidence("max")
    for start in range(0, len(labels), step):
        part = slice(start, start + step)
        evidence.add(original[part], variant[part], labels[part])
    assert evidence.result("y") == threshold(original, variant, labels, "y")
