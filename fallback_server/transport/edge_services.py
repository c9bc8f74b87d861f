"""Our own services: the catalog, for routers on devices, and what an operator may change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from fallback_server.access.rules import Scope
from fallback_server.control import Control, ModelView, VersionView
from fallback_server.core.errors import InvalidInput
from fallback_server.core.rollback import Move
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.changes import COALESCE_S, Changes
from fallback_server.transport.places import Places, place_of
from fallback_server.transport.rpc import Caller, Context, Rpcs
from fallback_server.transport.services import Handlers
from fallback_server.transport.settling import wait_served

MAX_WATCHERS = 2048
"""At a time; of one address as many as there are free places, so half of them alone, see `Places`."""

FIGURES_S = 0.5
"""Queues and waits change with every request, and nobody tells: watchers look at them so often."""


class CatalogService:
    """Get and Watch.

    A watcher that is slow gets the latest catalog when it can take one, never those that it has missed. All share one
    catalog, which is made anew at most once per `COALESCE_S`.

    Args:
        control: What is served.
        changes: Tells when that has changed.
        server_id: Which server this is.
        clock: Monotonic seconds.
        guard: Knows who may see what: of other models nothing is told.
    """

    def __init__(
        self,
        control: Control,
        changes: Changes,
        *,
        server_id: str,
        clock: Callable[[], float],
        guard: CallGuard,
    ) -> None:
        self._control = control
        self._guard = guard
        self._changes = changes
        self._clock = clock
        self._watches = Places("Watch", MAX_WATCHERS)
        self._current = pb.CatalogUpdate(server_id=server_id, revision=0)
        self._made_s: float | None = None
        self._seen = (-1, -1)
        self._parts_of: pb.CatalogUpdate | None = None
        self._parts: dict[tuple[object, ...], pb.CatalogUpdate] = {}  # By what is seen of it.

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        return {
            methods.CATALOG_GET: rpcs.message(methods.CATALOG_GET, self._get),
            methods.CATALOG_WATCH: rpcs.responses(methods.CATALOG_WATCH, self._watch),
        }

    def current(self) -> pb.CatalogUpdate:
        """The catalog as it is; the same object as before, where nothing in it has changed."""
        now_s = self._clock()
        seen, before = (self._changes.count, self._guard.guard.number), self._seen
        if self._made_s is not None and before == seen and now_s - self._made_s < COALESCE_S:
            return self._current
        self._made_s, self._seen = now_s, seen
        update = pb.CatalogUpdate(
            server_id=self._current.server_id,
            revision=self._current.revision,
            models=[write_model(view) for view in self._control.catalog()],
        )
        # By other rules callers see another part of it: two that differ must not have one revision.
        if update != self._current or not update.revision or before[1] != seen[1]:
            update.revision += 1
            self._current = update
        return self._current

    async def _get(self, request: pb.CatalogRequest, caller: Caller) -> pb.CatalogUpdate:
        del request
        return self._seen_by(caller)

    async def _watch(self, request: pb.CatalogRequest, context: Context) -> AsyncGenerator[pb.CatalogUpdate, None]:
        del request
        self._seen_by(context)
        with self._watches.taken(*place_of(context), stranger=self._guard.is_stranger(context)):
            sent: pb.CatalogUpdate | None = None
            while not self._changes.closed:
                seen = self._changes.count
                # Who may see what may have changed as well, and a certificate been revoked.
                update = self._seen_by(context)
                if sent is None or (update is not sent and update.models != sent.models):
                    yield update
                    sent = update
                await self._changes.wait(seen, FIGURES_S)

    def _seen_by(self, caller: Caller) -> pb.CatalogUpdate:
        """The catalog without the models that a caller may not see.

        Raises:
            ServerError: it may see none at all.
        """
        current = self.current()
        if not self._guard.inference:
            return current
        self._guard.admit_any(caller, Scope.STATUS, "Catalog")
        sight = self._guard.sight(caller)
        if self._parts_of is not current:
            self._parts_of, self._parts = current, {}
        part = self._parts.get(sight)
        if part is None:
            seen = self._guard.seen_by(caller)
            models = [model for model in current.models if seen(model.name)]
            part = pb.CatalogUpdate(server_id=current.server_id, revision=current.revision, models=models)
            if len(self._parts) < MAX_WATCHERS:
                self._parts[sight] = part
        return part


class OperatorService:
    """SetLabel, SetTraffic, Rollback and Reload.

    Args:
        control: What they change.
        changes: Tells when states have changed.
        guard: Knows who may.
    """

    def __init__(self, control: Control, changes: Changes, guard: CallGuard) -> None:
        self._control = control
        self._changes = changes
        self._guard = guard

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        return {
            methods.SET_LABEL: rpcs.message(methods.SET_LABEL, self._set_label),
            methods.SET_TRAFFIC: rpcs.message(methods.SET_TRAFFIC, self._set_traffic),
            methods.ROLLBACK: rpcs.message(methods.ROLLBACK, self._rollback),
            methods.RELOAD: rpcs.message(methods.RELOAD, self._reload),
        }

    async def _set_label(self, request: pb.SetLabelRequest, caller: Caller) -> pb.SetLabelResponse:
        self._guard.admit(caller, Scope.ADMIN, [request.model], "SetLabel")
        if not request.model or not request.label:
            raise InvalidInput("SetLabel needs a model and a label")
        version = request.version or None
        previous = self._control.set_label(request.model, request.label, version, who=self._guard.who(caller))
        return pb.SetLabelResponse(previous=previous)

    async def _set_traffic(self, request: pb.SetTrafficRequest, caller: Caller) -> pb.SetTrafficResponse:
        self._guard.admit(caller, Scope.ADMIN, [request.model], "SetTraffic")
        if not request.model:
            raise InvalidInput("SetTraffic needs a model")
        move = self._control.set_traffic(request.model, dict(request.traffic), who=self._guard.who(caller))
        return pb.SetTrafficResponse(move=write_move(move))

    async def _rollback(self, request: pb.RollbackRequest, caller: Caller) -> pb.RollbackResponse:
        self._guard.admit(caller, Scope.ADMIN, [request.model], "Rollback")
        if not request.model:
            raise InvalidInput("Rollback needs a model")
        if request.undo and request.label:
            raise InvalidInput("Rollback takes a label, or undo, and not both")
        done = self._control.rollback(request.model, request.label, undo=request.undo, who=self._guard.who(caller))
        return pb.RollbackResponse(
            from_version=done.from_version,
            to_version=done.to_version,
            label=done.label,
            moves=map(write_move, done.moves),
        )

    async def _reload(self, request: pb.ReloadRequest, caller: Caller) -> pb.ReloadResponse:
        """Answers when each model is served, or can't be; see `wait_served`."""
        del request
        self._guard.admit_all(caller, Scope.ADMIN, "Reload")
        before = self._control.wanted()
        await asyncio.to_thread(self._control.reload, who=self._guard.who(caller))
        models = await wait_served(self._control, self._changes)
        return pb.ReloadResponse(models=models, removed=sorted({*before}.difference(models)))


def write_model(view: ModelView) -> pb.Model:
    """A model as the catalog has it."""
    return pb.Model(
        name=view.name,
        versions=[write_version(version) for version in view.versions],
        labels=view.labels,
        default_version=view.default_version or 0,
        traffic=view.traffic,
        hold=None if view.hold is None else pb.Hold(version=view.hold.version, above=view.hold.above or 0),
        shadow=None if view.shadow is None else pb.Shadow(version=view.shadow.version, share=view.shadow.share),
        waiting_labels=view.waiting_labels,
        note=view.note,
    )


def write_move(move: Move) -> pb.Move:
    """Whose requests get another version."""
    return pb.Move(label=move.label, before=move.before, after=move.after)


def write_version(view: VersionView) -> pb.Version:
    """A version as the catalog has it: its state, and where it is loaded its package and its queues."""
    state = view.state
    version = pb.Version(version=state.servable_id.version, state=state.state.name, error=state.error or state.note)
    if view.servable is None:
        return version
    version.queued_rows = view.servable.queued_rows()
    # To a tenth of a millisecond: beyond that every look would find a change.
    version.expected_wait_ms = round(view.servable.expected_wait_ms(), 1)
    version.executor, version.choice = view.servable.choice.kind, view.servable.choice.why
    package = view.servable.package
    if package is not None:
        version.package_fingerprint = package.fingerprint
        version.preprocessing_fingerprint = package.preprocessing_fingerprint
    return version
