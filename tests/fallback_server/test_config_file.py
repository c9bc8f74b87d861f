"""TensorFlow Serving's configuration files, which are messages as text."""

import re

import pytest

from fallback_server.batching.options import BatchingOptions
from fallback_server.config import ConfigInvalid
from fallback_server.config_file import (
    batching_for,
    read_batching,
    read_metrics_path,
    read_model_configs,
    read_tls,
)
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


def test_splitting_and_lengths_of_batching_parameters(tmp_path):
    """With splitting the largest execution is the largest batch; without it that bounds nothing, and is refused."""
    split = "max_batch_size { value: 64 } enable_large_batch_splitting { value: true } max_execution_batch_size "
    assert read_batching(written(tmp_path, f"pad_variable_length_inputs: true {split} {{ value: 8 }}")) == {
        "pad_variable_length_inputs": True,
        "max_batch_size_rows": 8,
        "enable_large_batch_splitting": True,
    }
    with pytest.raises(ConfigInvalid, match="max_execution_batch_size must be at most max_batch_size = 64, got 65"):
        read_batching(written(tmp_path, f"{split} {{ value: 65 }}"))
    with pytest.raises(
        ConfigInvalid, match=r"max_execution_batch_size needs enable_large_batch_splitting \{ value: tr"
    ):
        read_batching(written(tmp_path, "max_execution_batch_size { value: 8 }"))
    off = read_batching(written(tmp_path, "enable_large_batch_splitting { value: false }"))
    assert off == {"enable_large_batch_splitting": False}


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
