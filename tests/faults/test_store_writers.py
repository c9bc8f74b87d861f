"""A device under load whose store is being changed by processes that are killed: no request is told of it."""

import signal

import pytest
from support.edge_models import publish_scale
from support.edge_stores import fake_trial, killed_at, leftovers
from support.fault_child import FaultChild
from support.fault_load import BACK_S, PATIENT_S

from edge_runtime.installing.install import install
from edge_runtime.store.store import Store

pytestmark = pytest.mark.slow

OPTIONS = {"delegates": ["cpu"], "threads": 1, "cache": None, "poll_interval_s": 0.05}


@pytest.fixture
def store(tmp_path):
    """Two versions; `stable` was 1, and is 2."""
    root = tmp_path / "store"
    for version in (1, 2, 3):
        publish_scale(tmp_path / "packages", version, float(version), model="lite")
    for version in (1, 2):
        install(tmp_path / "packages/lite" / str(version), root, trial=fake_trial)
        Store(root).label("lite", "stable", version)
    return root


@pytest.fixture
def child(store, fault_seed):
    """A device that answers by `stable`, with requests under way all the time."""
    made = FaultChild(store, OPTIONS, {"deadlines_s": PATIENT_S, "label": "stable"}, fault_seed)
    yield made
    made.close()


def test_writers_that_are_killed_cost_no_request(tmp_path, store, child, draw):
    """Install, use and rollback, at points that are drawn, then to the end: `stable` is what answers, each time."""
    versions = lambda: Store(store).versions("lite")  # noqa: E731  the state of what follows
    stable = lambda: Store(store).labels("lite")["stable"]  # noqa: E731
    changes = [
        (versions, [1, 2, 3], lambda: install(tmp_path / "packages/lite/3", store, trial=fake_trial)),
        (stable, 3, lambda: Store(store).label("lite", "stable", 3)),
        (stable, 2, lambda: Store(store).roll_back("lite")),
    ]
    child.ask("version", 2, 60)
    for state, done, change in changes:
        before, step, kills = state(), draw.randint(1, 3), 0
        while killed_at(step, store, change) == -signal.SIGKILL:
            kills += 1
            child.ask("await", 3, BACK_S)
            assert state() in (before, done)
            if state() == done:
                break
            step += draw.randint(1, 4)
        assert kills
        assert state() == done
        child.ask("version", stable(), BACK_S)
    assert not child.ask("stop")
    install(tmp_path / "packages/lite/3", store, trial=fake_trial)
    assert not leftovers(store)
