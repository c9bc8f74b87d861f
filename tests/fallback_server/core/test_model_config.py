from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import ModelConfig, PolicyKind, Shadow, VersionPolicy, check_configs

ALL, LATEST, SPECIFIC = PolicyKind.ALL, PolicyKind.LATEST, PolicyKind.SPECIFIC


def config(name="m", base_path="/models/m", **options):
    return ModelConfig(name=name, base_path=Path(base_path), **options)


@pytest.mark.parametrize(
    ("policy", "available", "selected"),
    [
        (VersionPolicy(), [], set()),
        (VersionPolicy(), [3, 1, 10], {10}),
        (VersionPolicy(num_versions=2), [3, 1, 10], {3, 10}),
        (VersionPolicy(num_versions=9), [3, 1], {1, 3}),
        (VersionPolicy(kind=ALL), [3, 1], {1, 3}),
        (VersionPolicy(kind=SPECIFIC, versions=(1, 4)), [3, 1], {1}),
        (VersionPolicy(kind=SPECIFIC, versions=(4,)), [3, 1], set()),
    ],
)
def test_policies(policy, available, selected):
    """Each policy chooses these of what is there."""
    assert policy.select(available) == selected


@given(st.sets(st.integers(0, 50)), st.integers(1, 5))
def test_latest_never_passes_over_a_higher_version(available, count):
    """What is left out is lower than all that is chosen, and no more is chosen than was asked for."""
    chosen = VersionPolicy(num_versions=count).select(available)
    assert len(chosen) == min(count, len(available))
    assert all(left < min(chosen) for left in available - chosen)


@pytest.mark.parametrize(
    ("configs", "text"),
    [
        ([config(), config()], "Illegal to list model m multiple times in config list"),
        (
            [config(base_path="models/m")],
            r"Expected model m to have an absolute path or URI; got base_path\(\)=models/m",
        ),
        ([config(name="")], "has no name"),
        ([config(name="a/b")], "slash"),
        ([config(platform="torch")], "model m: platform 'torch' is not one of tensorflow"),
    ],
)
def test_sets_that_are_refused(configs, text):
    """A set that can't be served is refused with TensorFlow Serving's text where it has one."""
    with pytest.raises(ConfigRefused, match=text):
        check_configs(configs)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: VersionPolicy(num_versions=0), "num_versions must be at least 1, got 0"),
        (lambda: VersionPolicy(kind=SPECIFIC), "names no version"),
        (lambda: VersionPolicy(kind=SPECIFIC, versions=(-1,)), "got -1"),
        (lambda: Shadow(version=1, share=0), "share must be over 0 and at most 1, got 0"),
        (lambda: config(labels={"": 1}), "label without a name"),
        (lambda: config(labels={"stable": 2**63}), "label stable of model m"),
        (lambda: config(traffic={1: -1.0}), "version 1 has the weight -1.0"),
        (lambda: config(traffic={1: 0.0}), "no version has a weight over 0"),
    ],
)
def test_values_that_are_refused(make, text):
    """A refusal says what, the value and the bound."""
    with pytest.raises(ConfigRefused, match=text):
        make()


def test_a_sound_set():
    """Two models with everything set are taken."""
    full = config(name="n", labels={"stable": 1}, traffic={1: 95, 2: 5}, shadow=Shadow(version=2, share=0.1))
    check_configs([config(), full])
