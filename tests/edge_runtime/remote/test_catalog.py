import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.remote.catalog import (
    MAX_LABELS,
    MAX_MODELS,
    MAX_VERSIONS,
    ServedCatalog,
    Serves,
    find,
    read_update,
    resolved,
    serves,
    with_status,
)
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb

START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50


def update(states, labels=None, default=0, wait_ms=0.0):
    versions = [
        edge.Version(version=version, state=state, expected_wait_ms=wait_ms) for version, state in states.items()
    ]
    model = edge.Model(name="m", versions=versions, labels=labels or {}, default_version=default)
    return edge.CatalogUpdate(server_id="s1", revision=7, models=[model])


def status(states):
    response = pb.GetModelStatusResponse()
    for version, state in states.items():
        response.model_version_status.add(version=version, state=state)
    return response


OURS = read_update(update({1: AVAILABLE, 2: LOADING, 3: END}, {"stable": 1, "next": 2, "old": 9}, default=1))
LOADS = read_update(update({2: START}))
EMPTY = read_update(edge.CatalogUpdate(server_id="s1", revision=1))
PLAIN = with_status(ServedCatalog(), "m", status({1: AVAILABLE, 2: LOADING}))
LACKING = with_status(ServedCatalog(), "m", None)


@pytest.mark.parametrize(
    ("catalog", "model", "version", "label", "answer"),
    [
        (None, "m", 1, None, Serves.UNKNOWN),
        (OURS, "m", 1, None, Serves.YES),
        (OURS, "m", None, None, Serves.YES),
        (OURS, "m", None, "stable", Serves.YES),
        (OURS, "m", None, "next", Serves.SOON),
        (OURS, "m", 2, None, Serves.SOON),
        (OURS, "m", 3, None, Serves.NO),
        (OURS, "m", 4, None, Serves.NO),
        (OURS, "other", None, None, Serves.NO),
        (LOADS, "m", None, None, Serves.SOON),
        (LOADS, "m", 1, None, Serves.NO),
        (EMPTY, "m", None, None, Serves.NO),
        (PLAIN, "m", 1, None, Serves.YES),
        (PLAIN, "m", None, None, Serves.YES),
        (PLAIN, "m", None, "stable", Serves.UNKNOWN),
        (PLAIN, "m", 2, None, Serves.SOON),
        (PLAIN, "m", 3, None, Serves.NO),
        (PLAIN, "other", 1, None, Serves.UNKNOWN),
        (LACKING, "m", None, None, Serves.NO),
        (LACKING, "m", None, "stable", Serves.NO),
    ],
)
def test_whether_a_server_answers_for_a_version(catalog, model, version, label, answer):
    """What is not in our server's catalog isn't there; of a server that is asked by name only that is known."""
    assert serves(catalog, model, version, label) is answer


@pytest.mark.parametrize(
    ("catalog", "version", "label", "number"),
    [
        (None, None, None, 0),
        (OURS, None, None, 1),
        (OURS, None, "stable", 1),
        (OURS, None, "next", 0),
        (OURS, None, "old", 0),
        (OURS, 1, None, 0),
        (PLAIN, None, None, 1),
        (PLAIN, None, "stable", 0),
        (LACKING, None, None, 0),
    ],
)
def test_which_version_a_server_would_answer_as(catalog, version, label, number):
    """It is told only of what is open: a label, or the latest, and only where it would be answered now."""
    assert resolved(catalog, "m", version, label) == number


def test_figures_and_fingerprints_are_read():
    """Queue, wait and the package's fingerprints come with the version that would answer."""
    message = update({1: AVAILABLE}, {"stable": 1}, default=1, wait_ms=12.5)
    message.models[0].versions[0].queued_rows = 3
    message.models[0].versions[0].preprocessing_fingerprint = "sha256:p"
    catalog = read_update(message)
    found = find(catalog, "m", None, "stable")
    assert (found.state, found.wait_s, found.queued_rows) == ("AVAILABLE", 0.0125, 3)
    assert found.preprocessing_fingerprint == "sha256:p"
    assert (catalog.server_id, catalog.revision) == ("s1", 7)
    assert find(catalog, "other", None, None) is None


def test_models_are_bounded():
    """Past the bound a model is one of which nothing is known, not one that is missing."""
    message = edge.CatalogUpdate(models=[edge.Model(name=f"m{i}") for i in range(MAX_MODELS + 1)])
    catalog = read_update(message)
    assert len(catalog.models) == MAX_MODELS
    assert serves(catalog, f"m{MAX_MODELS}", 1, None) is Serves.UNKNOWN
    for number in range(MAX_MODELS):
        catalog = with_status(catalog, f"n{number}", None) if number < 3 else catalog
    assert len(catalog.models) == MAX_MODELS


@given(st.binary(max_size=200))
def test_whatever_a_server_sends_can_be_read(data):
    """Bytes that are a message at all give a catalog."""
    message = edge.CatalogUpdate()
    try:
        message.ParseFromString(data)
    except Exception:  # noqa: BLE001  no message
        return
    catalog = read_update(message)
    assert all(serves(catalog, name, None, None) in Serves for name in catalog.models)


def test_of_one_model_some_hundred_versions_and_labels_are_kept():
    """What one server says takes no more memory than that; where there are more labels, none is believed absent."""
    kept = read_update(update(dict.fromkeys(range(1, MAX_VERSIONS + 9), AVAILABLE), {"l": 1}, default=1)).models["m"]
    assert list(kept.versions) == list(range(1, MAX_VERSIONS + 1))
    assert len(with_status(ServedCatalog(), "m", status(dict.fromkeys(range(1, 999), 30))).models["m"].versions) == 256
    many = read_update(update({1: AVAILABLE}, {str(label): 1 for label in range(MAX_LABELS + 1)}, default=1))
    assert many.models["m"].labels is None
    assert serves(many, "m", None, "300") is Serves.UNKNOWN


def test_figures_that_can_not_be_are_not_reckoned_with():
    """A wait that is no number is not known, and no row waits less than none."""
    nan = read_update(update({1: AVAILABLE}, wait_ms=float("nan"))).models["m"].versions[1]
    assert nan.wait_s == 0.0
    less = edge.CatalogUpdate(models=[{"name": "m", "versions": [{"version": 1, "queued_rows": -5}]}])
    assert read_update(less).models["m"].versions[1].queued_rows == 0
