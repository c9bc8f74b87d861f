"""Configuration files: TensorFlow Serving's, which are messages as text, and TOML."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.batching.options import BatchingOptions
from fallback_server.config import ConfigInvalid
from fallback_server.config_file import (
    batching_for,
    read_batching,
    read_metrics_path,
    read_model_configs,
    read_tls,
    read_toml,
    version_policy,
)
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import PolicyKind, Shadow


def written(tmp_path, text, name="file.config"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_models_of_a_text_proto(tmp_path):
    """As TensorFlow Serving's documentation writes them, with our additions."""
    text = """
    # Two models.
    model_config_list {
      config {
        name: 'half' base_path: '/models/half' model_platform: 'tensorflow'
        model_version_policy { specific { versions: 12 versions: 13 } }
        version_labels { key: 'stable' value: 12 }
        version_labels { key: 'canary' value: 13 }
        traffic { weights { key: 12 value: 95 } weights { key: 13 value: 5 } }
        shadow { version: 13 share: 0.1 }
      }
      config { name: "whole", base_path: "/models/whole", model_version_policy: { all: {} } }
    }
    """
    half, whole = read_model_configs(written(tmp_path, text))
    assert (half.name, str(half.base_path), half.labels) == ("half", "/models/half", {"stable": 12, "canary": 13})
    assert (half.version_policy.versions, half.traffic) == ((12, 13), {12: 95.0, 13: 5.0})
    assert half.shadow == Shadow(version=13, share=0.1)
    assert whole.version_policy.kind is PolicyKind.ALL


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
"""


def test_toml(tmp_path):
    """Flags by their names, and a table for each model; relative paths are below the file's folder."""
    values, (half, whole) = read_toml(written(tmp_path, TOML, "server.toml"))
    assert values == {"port": 8500, "mdns": False, "grace_s": 5.0, "allowed_batch_sizes": "2,4"}
    assert (half.version_policy.num_versions, half.labels, half.traffic) == (2, {"stable": 12}, {12: 95.0, 13: 5.5})
    assert half.shadow == Shadow(version=13, share=0.1)
    assert (whole.base_path, whole.version_policy.versions) == (tmp_path / "whole", (1, 3))
    assert read_model_configs(tmp_path / "server.toml") == (half, whole)
    assert read_toml(written(tmp_path, "port = 1", "server.toml"))[1] is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("model_config_list { config { nme: 'a' } }", ':1:30: Message type "ModelConfig" has no field named "nme".'),
        ("model_config_list {\n  config { name: 3 }\n}", ":2:18: Expected string but found: '3'"),
        ("model_config_list {", ':1:19: Expected "}".'),
        ("model_config_list { config { name: 'a' name: 'b' } }", 'should not have multiple "name" fields'),
        ("model_config_list { config { name: 'a' base_path: 'b' } }", ": Expected model a to have an absolute path"),
        (
            "model_config_list { config { name: 'a' base_path: '/b' logging_config {} } }",
            ": model a: logging_config is not supported",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/b' model_platform: 'x' } }",
            ": model a: platform 'x' is not",
        ),
        ("custom_model_config {}", ": custom_model_config is not supported"),
    ],
)
def test_what_is_wrong_with_a_text_proto_is_said_with_its_place(tmp_path, text, fault):
    """File, line, column, and the names of TensorFlow Serving's messages."""
    file = written(tmp_path, text)
    with pytest.raises(ConfigInvalid, match=re.escape(fault)) as raised:
        read_model_configs(file)
    assert str(raised.value).startswith(str(file))
    assert "edge.wire" not in str(raised.value)


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
        ("[models.a]\nbase_path = '/a'\nplatform = 'x'", "model a: platform 'x' is not one of"),
    ],
)
def test_what_is_wrong_with_toml_is_said_with_its_path(tmp_path, text, fault):
    """File and key."""
    file = written(tmp_path, text, "server.toml")
    with pytest.raises(ConfigInvalid, match=re.escape(fault)) as raised:
        read_toml(file)
    assert len(raised.value.faults) == 1
    assert str(raised.value).startswith(str(file))


def test_files_that_cannot_be_read(tmp_path):
    """A folder, one that isn't there, one that is no text."""
    for file, text in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file")):
        with pytest.raises(ConfigInvalid, match=text):
            read_model_configs(file)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        read_model_configs(tmp_path / "bytes")


def test_batching_parameters(tmp_path):
    """As TensorFlow Serving's documentation writes them."""
    text = """
    max_batch_size { value: 128 }
    batch_timeout_micros { value: 0 }
    max_enqueued_batches { value: 1000000 }
    num_batch_threads { value: 8 }
    allowed_batch_sizes: 64 allowed_batch_sizes: 128
    """
    assert read_batching(written(tmp_path, text)) == {
        "max_batch_size_rows": 128,
        "batch_timeout_us": 0,
        "max_enqueued_batches": 1000000,
        "num_batch_threads": 8,
        "allowed_batch_sizes": (64, 128),
    }


def test_batching_parameters_that_the_scheduler_does_not_have(tmp_path):
    """All are refused by name; turned off they say what is so anyway."""
    text = "pad_variable_length_inputs: true enable_large_batch_splitting { value: true } max_execution_batch_size { }"
    with pytest.raises(ConfigInvalid) as raised:
        read_batching(written(tmp_path, text))
    assert [fault.split()[1] for fault in raised.value.faults] == [
        "pad_variable_length_inputs",
        "enable_large_batch_splitting",
        "max_execution_batch_size",
    ]
    assert read_batching(written(tmp_path, "enable_large_batch_splitting { value: false }")) == {}


def test_batching_of_one_version(tmp_path, caplog):
    """Its file replaces the server's parameters whole, but for the threads, where that is allowed and there is one."""
    default = BatchingOptions(per_model=True, batch_timeout_us=7, num_batch_threads=3, max_enqueued_bytes=99)
    assert batching_for(tmp_path, default) is default
    written(
        tmp_path,
        "allowed_batch_sizes: 2 allowed_batch_sizes: 4 num_batch_threads { value: 9 }",
        "batching_params.pbtxt",
    )
    own = batching_for(tmp_path, default)
    assert (own.allowed_batch_sizes, own.max_batch_size_rows, own.batch_timeout_us) == ((2, 4), 4, 0)
    assert (own.num_batch_threads, own.max_enqueued_bytes) == (3, 99)
    assert "num_batch_threads can't be set for one model: all share the threads" in caplog.text
    assert batching_for(tmp_path, BatchingOptions()) == BatchingOptions()
    file = written(tmp_path, "max_batch_size { value: 0 }", "batching_params.pbtxt")
    with pytest.raises(ConfigInvalid, match=f"{file}: max_batch_size must be at least 1, got 0"):
        batching_for(tmp_path, default)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ("prometheus_config { enable: true path: '/m' }", "/m"),
        ("prometheus_config { path: '/m' }", None),
        ("", None),
    ],
)
def test_monitoring(tmp_path, text, path):
    """TensorFlow Serving's default path, another, or none."""
    assert read_metrics_path(written(tmp_path, text)) == path


def test_monitoring_and_tls_that_are_refused(tmp_path):
    """Each with its file."""
    with pytest.raises(ConfigInvalid, match=r"file.config: prometheus_config.path must begin with a slash, got 'm'"):
        read_metrics_path(written(tmp_path, "prometheus_config { enable: true path: 'm' }"))
    with pytest.raises(ConfigInvalid, match=r"file.config: --ssl_config_file: server_key must be PEM text"):
        read_tls(written(tmp_path, "server_key: '/etc/key.pem'"))


@given(st.text(alphabet="latest()al,0123 x", max_size=20) | st.lists(st.integers(-2, 5), max_size=3))
def test_any_version_policy_is_read_or_refused(given_):
    """What is read comes out as it went in."""
    try:
        policy = version_policy(given_)
    except ConfigRefused:
        return
    again = ",".join(map(str, policy.versions)) if policy.kind is PolicyKind.SPECIFIC else str(policy)
    assert version_policy(again) == policy
