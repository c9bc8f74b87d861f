"""A manager's versions as they are, for tests of what stands above them: no labels, nothing shared out."""

from collections.abc import Callable

from fallback_server.core.errors import InvalidInput, ModelNotFound, ServerError
from fallback_server.core.handle import ServableHandle, Standing
from fallback_server.core.manager import Manager
from fallback_server.core.servable import ServableState
from fallback_server.core.target import ModelTarget
from fallback_server.served_model import ServedModel


class PlainVersions:
    """The manager's versions as they are: no labels, nothing shared out."""

    def __init__(self, manager: Manager[ServedModel]) -> None:
        self._manager = manager

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """See `Versions`."""
        del client_key
        if target.label is not None:
            raise InvalidInput(f"Unrecognized servable version label: {target.label}")
        return self._manager.acquire(target.name, target.version)

    def standing(self, target: ModelTarget) -> Standing[ServedModel] | None:
        """See `Versions`."""
        moves = self._manager.moves
        try:
            handle = self.acquire(target)
        except ServerError:
            return None
        with handle:
            return self._manager.standing(handle, moves=moves)

    def shadow(self, name: str, answered: int) -> ServableHandle[ServedModel] | None:
        """See `Versions`."""
        del name, answered
        return None

    def states(self, target: ModelTarget) -> tuple[ServableState, ...]:
        """The states of a model's versions, the highest first."""
        if not target.name:
            raise InvalidInput("ModelSpec has no name specified.")
        states = self._manager.states(target.name)
        if target.version is not None:
            states = tuple(state for state in states if state.servable_id.version == target.version)
            if not states:
                raise ModelNotFound(f"Could not find version {target.version} of model {target.name}")
        if not states:
            raise ModelNotFound(f"Could not find any versions of model {target.name}")
        return states

    def index(self) -> tuple[ServableState, ...]:
        """Nothing: nobody knows the names."""
        return ()

    def catalog(self) -> tuple[object, ...]:
        """Nothing, likewise."""
        return ()

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Nobody tells."""
        del on_change
        return lambda: None
