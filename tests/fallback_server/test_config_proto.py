from pathlib import Path

import pytest
from google.protobuf import text_format

from fallback_server.config import ConfigInvalid
from fallback_server.config_proto import read_configs
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import ModelConfig, PolicyKind, Shadow, StepConfig, VersionPolicy
from fallback_server.protocol.proto import model_config_pb2 as pb

WHOLE = """
model_config_list {
  config { name: "a" base_path: "/m/a" model_platform: "tensorflow" model_version_policy { specific { versions: 1
    versions: 2 } } version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }
    traffic { weights { key: 1 value: 95 } weights { key: 2 value: 5 } } shadow { version: 2 share: 0.5 }
    executor: "litert" weight: 3 target_latency_ms: 0 sequence { signature: "s" state { key: "h" value: "hn" } } }
  config { name: "b" base_path: "/m/b" model_version_policy { all {} } }
  config { name: "c" base_path: "/m/c" model_version_policy { latest { num_versions: 3 } } }
  config { name: "d" base_path: "/m/d" model_type: TENSORFLOW }
}
"""


def read(text):
    return read_configs(text_format.Parse(text, pb.ModelServerConfig()))


def test_every_field_arrives():
    """Names, paths, the three policies and the default one, labels, and what is ours: traffic, shadow, executor, ..."""
    a, b, c, d = read(WHOLE)
    assert a == ModelConfig(
        name="a",
        base_path=Path("/m/a"),
        version_policy=VersionPolicy(kind=PolicyKind.SPECIFIC, versions=(1, 2)),
        labels={"stable": 1, "canary": 2},
        traffic={1: 95.0, 2: 5.0},
        shadow=Shadow(version=2, share=0.5),
        executor="litert",
        weight=3.0,
        target_latency_ms=0.0,
        sequence=StepConfig(signature="s", state={"h": "hn"}),
    )
    assert b.version_policy == VersionPolicy(kind=PolicyKind.ALL)
    assert c.version_policy == VersionPolicy(num_versions=3)
    assert d == ModelConfig(name="d", base_path=Path("/m/d"))


def test_an_empty_config_serves_nothing():
    """TensorFlow Serving takes a list of no models."""
    assert read("") == []


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ('name: "m" base_path: "/m" logging_config {}', "model m: logging_config is not supported"),
        ('name: "m" base_path: "/m" model_platform: "tensorflow_v9"', "model m: platform 'tensorflow_v9'"),
        ('name: "m" base_path: "/m" model_type: OTHER', "model m: model_type OTHER is not supported"),
        ('name: "m" base_path: "/m" model_type: 7', "model m: model_type 7 is not supported"),
        ('name: "m" base_path: "/m" model_type: 1 model_platform: "tensorflow"', "model_type and model_platform"),
        ('name: "m" base_path: "/m" model_version_policy { specific {} }', "model m: the specific version policy"),
        ('name: "m" base_path: "/m" shadow { version: 1 share: 2 }', "model m: the shadow's share"),
        ('name: "m" base_path: "/m" executor: "tflite"', "model m: executor 'tflite' is not one of auto, tensorflow"),
        ('name: "m" base_path: "/m" weight: 0', "model m: weight must be from 0.001"),
        ('name: "m" base_path: "/m" target_latency_ms: -1', "model m: target_latency_ms must be from 0"),
        (
            'name: "m" base_path: "/m" sequence { state { key: "a" value: "x" } state { key: "b" value: "x" } }',
            "model m: state: output 'x' is the next value of both",
        ),
        ('name: "m" base_path: "m"', "Expected model m to have an absolute path or URI; got base_path()=m"),
        ('name: "m"', "Expected model m to have an absolute path or URI; got base_path()="),
        ('name: "m" base_path: "gs://bucket/m"', "model m: base_path gs://bucket/m is a URI, and remote file systems"),
        ('base_path: "/m"', "has no name; its base_path is /m"),
    ],
)
def test_refusals(model, said):
    """What can't be served is refused with the model's name and the setting's."""
    with pytest.raises(ConfigRefused) as refused:
        read(f"model_config_list {{ config {{ {model} }} }}")
    assert said in str(refused.value)


def test_all_refusals_are_told():
    """Of every setting of every model, each once."""
    with pytest.raises(ConfigInvalid) as refused:
        read(
            """model_config_list {
              config { name: "m" base_path: "m" model_platform: "x" logging_config {}
                version_labels { key: "" value: 1 }
                version_labels { key: "a" value: -1 } traffic { weights { key: 1 value: -1 } }
                shadow { version: 1 share: 2 } model_version_policy { specific {} } }
              config { name: "n" base_path: "s3://bucket/n" }
              config { base_path: "o" model_type: OTHER }
              config { name: "m" base_path: "/m" }
              config { name: "m" base_path: "/m" }
              config { name: "a/b" base_path: "/m" model_platform: "x" }
            }"""
        )
    told = (
        "model m: logging_config is not supported",
        "Expected model m to have an absolute path or URI; got base_path()=m",
        "model m: platform 'x' is not one of tensorflow",
        "model m: the specific version policy names no version",
        "label a of model m: a version must be from 0",
        "model m has a version label without a name",
        "traffic of model m: version 1 has the weight -1",
        "model m: the shadow's share must be",
        "model n: base_path s3://bucket/n is a URI",
        "model without a name: a model of the config list has no name; its base_path is o",
        "Expected model without a name to have an absolute path or URI; got base_path()=o",
        "model without a name: model_type OTHER is not supported",
        "Illegal to list model m multiple times in config list",
        "the name of model a/b must not hold a slash",
        "model a/b: platform 'x' is not one of tensorflow",
    )
    for text in told:
        assert sum(fault.startswith(text) for fault in refused.value.faults) == 1, (text, refused.value.faults)
    assert len(refused.value.faults) == len(told)


def test_a_model_twice_and_a_custom_config():
    """TensorFlow Serving's text for the one, the field's name for the other."""
    with pytest.raises(ConfigRefused, match=r"^Illegal to list model m multiple times in config list$"):
        read('model_config_list { config { name: "m" base_path: "/a" } config { name: "m" base_path: "/b" } }')
    with pytest.raises(ConfigRefused, match="custom_model_config is not supported"):
        read('custom_model_config { type_url: "x" }')
