"""Our own configuration file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.config import ConfigInvalid
from fallback_server.config_file import read_model_configs
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import PolicyKind, Shadow
from fallback_server.toml_file import read_toml, version_policy


def written(tmp_path, text, name="server.toml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def faults(file):
    """All that is wrong with a file, whether it can be read at all or not."""
    try:
        found = read_toml(file)
    except ConfigInvalid as error:
        return error.faults
    return (*found.faults, *found.models.faults)


TOML = """
port = 8500
mdns = false
grace_s = 5
allowed_batch_sizes = [2, 4]
[models.half]
base_path = "/models/half"
version_policy = "latest(2)"
labels = {stable = 12}
traffic = {12 = 95, 13 = 5.5}
shadow = {version = 13, share = 0.1}
[models.whole]
base_path = "whole"
version_policy = [1, 3]
executor = "litert"
"""


def test_toml(tmp_path):
    """Flags by their names, and a table for each model; relative paths are below the file's folder."""
    found = read_toml(written(tmp_path, TOML))
    half, whole = found.models.configs
    assert found.values == {"port": 8500, "mdns": False, "grace_s": 5.0, "allowed_batch_sizes": "2,4"}
    assert (half.version_policy.num_versions, half.labels, half.traffic) == (2, {"stable": 12}, {12: 95.0, 13: 5.5})
    assert half.shadow == Shadow(version=13, share=0.1)
    assert (whole.base_path, whole.version_policy.versions) == (tmp_path / "whole", (1, 3))
    assert (half.executor, whole.executor) == ("", "litert")
    assert found.listed
    assert faults(tmp_path / "server.toml") == ()
    assert read_model_configs(tmp_path / "server.toml") == (half, whole)
    assert not read_toml(written(tmp_path, "port = 1")).listed


def test_a_models_weight_and_target(tmp_path):
    """Of one model; others have a weight of 1, and the server's target."""
    text = '[models.a]\nbase_path = "a"\nweight = 3\ntarget_latency_ms = 20.5\n[models.b]\nbase_path = "b"'
    one, other = read_model_configs(written(tmp_path, text))
    assert (one.weight, one.target_latency_ms) == (3.0, 20.5)
    assert (other.weight, other.target_latency_ms) == (1.0, None)
    text = '[models.a]\nbase_path = "a"\nweight = 0\ntarget_latency_ms = -1'
    assert [fault.partition("model a: ")[2] for fault in faults(written(tmp_path, text))] == [
        "target_latency_ms must be from 0 to 3600000, got -1.0",
        "weight must be from 0.001 to 1000.0, got 0.0",
    ]


def test_all_paths_are_below_the_folder_of_the_file(tmp_path, monkeypatch):
    """Wherever the server is started; one that is absolute stays, and an empty one is none."""
    text = """
    ssl_config_file = "etc/ssl.config"
    batching_parameters_file = "../batching.config"
    monitoring_config_file = "/etc/monitoring.config"
    grpc_socket_path = ""
    [models.m]
    base_path = "m"
    """
    (tmp_path / "conf").mkdir()
    written(tmp_path / "conf", text)
    monkeypatch.chdir(tmp_path)
    found = read_toml(Path("conf/server.toml"))
    assert found.values == {
        "ssl_config_file": str(tmp_path / "conf/etc/ssl.config"),
        "batching_parameters_file": str(tmp_path / "conf/../batching.config"),
        "monitoring_config_file": "/etc/monitoring.config",
        "grpc_socket_path": "",
    }
    assert found.models.configs[0].base_path == tmp_path / "conf/m"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("port = \nx = 1", "line 1"),
        ("prot = 1", "--prot is no flag; did you mean --port?"),
        ("mixed_precision = 'x'", "--mixed_precision is TensorFlow Serving's, and not one that this server has"),
        ("port = '1'", "--port must be a whole number, got '1'"),
        ("port = true", "--port must be a whole number, got True"),
        ("mdns = 1", "--mdns must be true or false, got 1"),
        ("log_level = 'loud'", "--log_level must be one of"),
        ("config = 'x'", "--config belongs on the command line"),
        ("models = 1", "models must be tables [models.NAME], got 1"),
        ("models = {a = 1}", "models.a must be a table, got 1"),
        ("[models.a]", "models.a.base_path is missing"),
        ("[models.a]\nbase_path = 1", "models.a.base_path must be a text, got 1"),
        ("[models.a]\nbase_path = '/a'\npath = 1", "models.a.path is not known; base_path, platform"),
        ("[models.a]\nbase_path = '/a'\nversion_policy = 'x'", "models.a.version_policy must be latest(N), all, or"),
        ("[models.a]\nbase_path = '/a'\nlabels = {x = 'y'}", "models.a.labels.x must be a whole number, got 'y'"),
        ("[models.a]\nbase_path = '/a'\ntraffic = {x = 1}", "models.a.traffic: a version's number is expected"),
        ("[models.a]\nbase_path = '/a'\ntraffic = {1 = 'x'}", "models.a.traffic.1 must be a number, got 'x'"),
        ("[models.a]\nbase_path = '/a'\ntraffic = {1 = -1}", "models.a: traffic of model a: version 1 has the weight"),
        ("[models.a]\nbase_path = '/a'\nshadow = {version = 1}", "models.a.shadow.share is missing"),
        ("[models.a]\nbase_path = '/a'\nshadow = {version = 1, share = 2}", "models.a: the shadow's share must be"),
        (
            "[models.a]\nbase_path = '/a'\nexecutor = 'x'",
            "model a: executor 'x' is not one of auto, tensorflow, litert",
        ),
        ("[models.a]\nbase_path = '/a'\nplatform = 'x'", "model a: platform 'x' is not one of"),
    ],
)
def test_what_is_wrong_with_toml_is_said_with_its_path(tmp_path, text, fault):
    """File and key."""
    (fault_,) = faults(written(tmp_path, text))
    assert fault in fault_
    assert fault_.startswith(f"{tmp_path}/server.toml: ")


def test_all_that_is_wrong_with_the_models_is_told(tmp_path):
    """Of every part of every model; the others are still read."""
    text = """
    [models.a]
    base_path = 1
    path = "x"
    platform = "torch"
    version_policy = "newest"
    labels = {x = "y", "" = 1, z = -1}
    traffic = {1 = -1, 2 = "x"}
    shadow = {version = 1, share = 2}
    [models.b]
    base_path = "s3://bucket/b"
    [models."c/d"]
    base_path = "/c"
    traffic = {1 = -1, 2 = -2}
    [models.e]
    base_path = "/e"
    """
    file = written(tmp_path, text)
    told = faults(file)
    for fault in (
        "models.a.base_path must be a text, got 1",
        "models.a.path is not known; base_path,",
        "models.a: model a: platform 'torch' is not one of",
        "models.a.version_policy must be latest(N), all, or",
        "models.a.labels.x must be a whole number, got 'y'",
        "models.a.traffic.2 must be a number, got 'x'",
        "models.a: the shadow's share must be",
        "models.b: base_path s3://bucket/b is a URI, and remote file systems are not read here: mount it",
        "models.c/d: traffic of model c/d: version 1 has the weight -1.0",
        "models.c/d: traffic of model c/d: version 2 has the weight -2.0",
        "models.c/d: the name of model c/d must not hold a slash",
    ):
        assert sum(line.startswith(f"{file}: {fault}") for line in told) == 1, (fault, told)
    assert len(told) == 11
    assert [config.name for config in read_toml(file).models.configs] == ["e"]
    with pytest.raises(ConfigInvalid) as raised:
        read_model_configs(file)
    assert raised.value.faults == told


def test_a_file_that_is_no_toml_may_be_tensorflow_servings(tmp_path):
    """It is told where such a one belongs; a file that is named TOML has a slip."""
    text = "model_config_list { config { name: 'a' base_path: '/a' } }"
    (told,) = faults(written(tmp_path, text, "models.config"))
    assert told.endswith(f"; is it TensorFlow Serving's? --model_config_file={tmp_path}/models.config")
    (told,) = faults(written(tmp_path, text))
    assert "line 1" in told
    assert "TensorFlow" not in told


@given(st.text(alphabet="latest()al,0123 x", max_size=20) | st.lists(st.integers(-2, 5), max_size=3))
def test_any_version_policy_is_read_or_refused(given_):
    """What is read comes out as it went in."""
    try:
        policy = version_policy(given_)
    except ConfigRefused:
        return
    again = ",".join(map(str, policy.versions)) if policy.kind is PolicyKind.SPECIFIC else str(policy)
    assert version_policy(again) == policy
