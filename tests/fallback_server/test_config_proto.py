from pathlib import Path

import pytest
from google.protobuf import text_format

from fallback_server.config_proto import read_configs
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import ModelConfig, PolicyKind, Shadow, VersionPolicy
from fallback_server.protocol.proto import model_config_pb2 as pb

WHOLE = """
model_config_list {
  config { name: "a" base_path: "/m/a" model_platform: "tensorflow" model_version_policy { specific { versions: 1
    versions: 2 } } version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }
    traffic { weights { key: 1 value: 95 } weights { key: 2 value: 5 } } shadow { version: 2 share: 0.5 } }
  config { name: "b" base_path: "/m/b" model_version_policy { all {} } }
  config { name: "c" base_path: "/m/c" model_version_policy { latest { num_versions: 3 } } }
  config { name: "d" base_path: "/m/d" model_type: 1 }
}
"""


def read(text):
    return read_configs(text_format.Parse(text, pb.ModelServerConfig()))


def test_every_field_arrives():
    """Names, paths, the three policies and the default one, labels, and our traffic and shadow."""
    a, b, c, d = read(WHOLE)
    assert a == ModelConfig(
        name="a",
        base_path=Path("/m/a"),
        version_policy=VersionPolicy(kind=PolicyKind.SPECIFIC, versions=(1, 2)),
        labels={"stable": 1, "canary": 2},
        traffic={1: 95.0, 2: 5.0},
        shadow=Shadow(version=2, share=0.5),
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
        ('name: "m" base_path: "/m" model_type: 2', "model m: model_type 2 is not supported"),
        ('name: "m" base_path: "/m" model_type: 1 model_platform: "tensorflow"', "model_type and model_platform"),
        ('name: "m" base_path: "/m" model_version_policy { specific {} }', "model m: the specific version policy"),
        ('name: "m" base_path: "/m" shadow { version: 1 share: 2 }', "model m: the shadow's share"),
        ('name: "m" base_path: "m"', "Expected model m to have an absolute path or URI; got base_path()=m"),
        ('base_path: "/m"', "has no name"),
    ],
)
def test_refusals(model, said):
    """What can't be served is refused with the model's name and the setting's."""
    with pytest.raises(ConfigRefused) as refused:
        read(f"model_config_list {{ config {{ {model} }} }}")
    assert said in str(refused.value)


def test_a_model_twice_and_a_custom_config():
    """TensorFlow Serving's text for the one, the field's name for the other."""
    with pytest.raises(ConfigRefused, match=r"^Illegal to list model m multiple times in config list$"):
        read('model_config_list { config { name: "m" base_path: "/a" } config { name: "m" base_path: "/b" } }')
    with pytest.raises(ConfigRefused, match="custom_model_config is not supported"):
        read('custom_model_config { type_url: "x" }')
