"""TensorFlow Serving's ModelService: what state versions are in, and another configuration."""

from __future__ import annotations

import asyncio

from fallback_server.change_log import refusals_told
from fallback_server.config_proto import read_configs
from fallback_server.control import Control
from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport import messages
from fallback_server.transport.changes import Changes
from fallback_server.transport.rpc import Caller, Rpcs, peer_of
from fallback_server.transport.services import Handlers, RemoteControl
from fallback_server.transport.settling import wait_served


class ModelService:
    """GetModelStatus and HandleReloadConfigRequest.

    Args:
        control: Answers.
        changes: Tells when states have changed.
        remote_control: Whether callers may change the configuration.
    """

    def __init__(self, control: Control, changes: Changes, remote_control: RemoteControl) -> None:
        self._control = control
        self._changes = changes
        self._remote_control = remote_control

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        return {
            methods.GET_MODEL_STATUS: rpcs.message(methods.GET_MODEL_STATUS, self._status),
            methods.RELOAD_CONFIG: rpcs.message(methods.RELOAD_CONFIG, self._reload),
        }

    async def _status(self, request: pb.GetModelStatusRequest, caller: Caller) -> pb.GetModelStatusResponse:
        del caller
        return messages.write_states(self._control.states(messages.read_target(request)))

    async def _reload(self, request: pb.ReloadConfigRequest, caller: Caller) -> pb.ReloadConfigResponse:
        """Takes the complete new configuration, and answers when each of its models is served, or can't be.

        What can't be served is told, see `wait_served`, and the configuration stays.
        """
        self._remote_control.check("HandleReloadConfigRequest")
        who = peer_of(caller)
        with refusals_told("configuration", who):
            configs = read_configs(request.config)
        await asyncio.to_thread(self._control.configure, configs, who=who)
        await wait_served(self._control, self._changes, [config.name for config in configs])
        return pb.ReloadConfigResponse(status=pb.StatusProto())
