"""TensorFlow Serving's model configuration, as a message: what of it is served, and what is refused. Pure."""

from __future__ import annotations

from fallback_server.config import ConfigInvalid
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import ModelConfig, PolicyKind, Shadow, StepConfig, VersionPolicy
from fallback_server.model_list import ModelDraft, ModelList
from fallback_server.protocol.proto import model_config_pb2 as pb

DEFAULT_PLATFORM = "tensorflow"


def read_configs(config: pb.ModelServerConfig) -> list[ModelConfig]:
    """The complete set of models that a ModelServerConfig lists, in its order.

    Raises:
        ConfigInvalid: it is no list of models, or a model has a setting that can't be served, or that this server
            doesn't have; the text names each such model and setting.
    """
    models = list_models(config)
    if faults := models.told():
        raise ConfigInvalid(*faults)
    return models.configs


def list_models(config: pb.ModelServerConfig) -> ModelList:
    """The models that a ModelServerConfig lists, and all that is wrong with it."""
    models = ModelList()
    if config.WhichOneof("config") == "custom_model_config":
        models.faults.append("custom_model_config is not supported: list the models in model_config_list")
    for model in config.model_config_list.config:
        models.add(_read_model(model))
    return models


def _read_model(model: pb.ModelConfig) -> ModelDraft:
    draft = ModelDraft(model.name, f"model {model.name or 'without a name'}")
    if model.HasField("logging_config"):
        draft.add(ConfigRefused("logging_config is not supported: this server logs no requests"))
    draft.set_base_path(model.base_path)
    draft.set("platform", lambda: _platform(model))
    draft.set("version_policy", lambda: _policy(model.model_version_policy))
    draft.set("labels", lambda: dict(model.version_labels))
    draft.set("traffic", lambda: dict(model.traffic.weights))
    draft.set("shadow", lambda: _shadow(model))
    draft.set("executor", lambda: model.executor)
    if model.HasField("weight"):
        draft.set("weight", lambda: model.weight)
    if model.HasField("target_latency_ms"):
        draft.set("target_latency_ms", lambda: model.target_latency_ms)
    draft.set("sequence", lambda: StepConfig(signature=model.sequence.signature, state=dict(model.sequence.state)))
    return draft


def _platform(model: pb.ModelConfig) -> str:
    kind = model.model_type
    if kind not in (pb.MODEL_TYPE_UNSPECIFIED, pb.TENSORFLOW):
        name = pb.ModelType.Name(kind) if kind in pb.ModelType.values() else kind
        raise ConfigRefused(f"model_type {name} is not supported; leave it out")
    if kind and model.model_platform:
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
