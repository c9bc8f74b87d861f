"""TensorFlow Serving's model configuration, as a message: what of it is served, and what is refused. Pure."""

from __future__ import annotations

from pathlib import Path

from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import ModelConfig, PolicyKind, Shadow, VersionPolicy, check_configs
from fallback_server.protocol.proto import model_config_pb2 as pb

DEFAULT_PLATFORM = "tensorflow"

_TENSORFLOW_TYPE = 1
"""`model_type`'s only value that TensorFlow Serving still reads; it was replaced by `model_platform`."""


def read_configs(config: pb.ModelServerConfig) -> list[ModelConfig]:
    """The complete set of models that a ModelServerConfig lists, in its order.

    Raises:
        ConfigRefused: it is no list of models, or a model has a setting that can't be served, or that this server
            doesn't have; the text names the model and the setting.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise ConfigRefused("custom_model_config is not supported: list the models in model_config_list")
    configs = [_read_model(model) for model in config.model_config_list.config]
    check_configs(configs)
    return configs


def _read_model(model: pb.ModelConfig) -> ModelConfig:
    if model.HasField("logging_config"):
        raise ConfigRefused(f"model {model.name}: logging_config is not supported: this server logs no requests")
    try:
        return ModelConfig(
            name=model.name,
            base_path=Path(model.base_path),
            platform=_platform(model),
            version_policy=_policy(model.model_version_policy),
            labels=dict(model.version_labels),
            traffic=dict(model.traffic.weights),
            shadow=_shadow(model),
        )
    except ConfigRefused as error:
        if f"model {model.name}" in str(error):
            raise
        raise ConfigRefused(f"model {model.name}: {error}") from error


def _platform(model: pb.ModelConfig) -> str:
    if model.model_type not in (0, _TENSORFLOW_TYPE):
        raise ConfigRefused(f"model_type {model.model_type} is not supported; leave it out")
    if model.model_type and model.model_platform:
        raise ConfigRefused("model_type and model_platform can't both be set; leave model_type out")
    return model.model_platform or DEFAULT_PLATFORM


def _policy(policy: pb.ServableVersionPolicy) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(kind=PolicyKind.ALL)
        case "specific":
            return VersionPolicy(kind=PolicyKind.SPECIFIC, versions=tuple(policy.specific.versions))
        case _:
            return VersionPolicy(num_versions=policy.latest.num_versions or 1)


def _shadow(model: pb.ModelConfig) -> Shadow | None:
    if not model.HasField("shadow"):
        return None
    return Shadow(version=model.shadow.version, share=model.shadow.share)
