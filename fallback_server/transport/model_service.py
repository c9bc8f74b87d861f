"""TensorFlow Serving's ModelService: what state versions are in, and another configuration."""

from __future__ import annotations

import asyncio

from fallback_server.access.rules import Scope
from fallback_server.change_log import refusals_told
from fallback_server.config_proto import read_configs
from fallback_server.control import Control
from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport import messages
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.changes import Changes
from fallback_server.transport.rpc import Caller, Rpcs
from fallback_server.transport.services import Handlers
from fallback_server.transport.settling import wait_served


class ModelService:
    """GetModelStatus and HandleReloadConfigRequest.

    Args:
        control: Answers.
        changes: Tells when states have changed.
        guard: Knows who may see and change what.
    """

    def __init__(self, control: Control, changes: Changes, guard: CallGuard) -> None:
        self._control = control
        self._changes = changes
        self._guard = guard

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        return {
            methods.GET_MODEL_STATUS: rpcs.message(methods.GET_MODEL_STATUS, self._status),
            methods.RELOAD_CONFIG: rpcs.message(methods.RELOAD_CONFIG, self._reload),
        }

    async def _status(self, request: pb.GetModelStatusRequest, caller: Caller) -> pb.GetModelStatusResponse:
        target = messages.read_target(request)
        self._guard.admit(caller, Scope.STATUS, [target.name])
        return messages.write_states(self._control.states(target))

    async def _reload(self, request: pb.ReloadConfigRequest, caller: Caller) -> pb.ReloadConfigResponse:
        """Takes the complete new configuration, and answers when each of its models is served, or can't be.

        What can't be served is told, see `wait_served`, and the configuration stays.
        """
        self._guard.admit_all(caller, Scope.ADMIN, "HandleReloadConfigRequest")
        who = self._guard.who(caller)
        with refusals_told("configuration", who):
            configs = read_configs(request.config)
        await asyncio.to_thread(self._control.configure, configs, who=who)
        await wait_served(self._control, self._changes, [config.name for config in configs])
        return pb.ReloadConfigResponse(status=pb.StatusProto())
