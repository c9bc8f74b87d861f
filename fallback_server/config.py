"""The server's options: checked once, then never changed."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.manager import ManagerOptions
from fallback_server.executors.saved_model import SavedModelOptions

DEFAULT_MODEL_NAME = "default"
"""TensorFlow Serving's name for the model of a base path that is given without one."""

MAX_WAIT_S = 86_400.0
"""A day: the longest that is waited between two looks at the disk, or for what is in flight."""


class ConfigInvalid(ValueError):
    """An option is out of its bounds, or names what isn't there. The text is for whoever started the server."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Where the server listens, and how it is found.

    Attributes:
        host: Name or address; 0.0.0.0 for all.
        port: 0 picks a free one.
        mdns: Whether it is announced.
        server_id: In the announcement and the log; made up at each start unless given.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    mdns: bool = True
    server_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigInvalid(f"--port must be from 0 to 65535, got {self.port}")
        if not self.host:
            raise ConfigInvalid("--host must not be empty")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which models are served.

    Attributes:
        repository: Holds NAME/VERSION/saved_model.pb; None for none.
        models: Model name -> base path, which holds VERSION/saved_model.pb.
        poll_wait_s: Time between two looks at the disk; 0 looks at the start alone.
    """

    repository: Path | None = None
    models: dict[str, Path] = field(default_factory=dict)
    poll_wait_s: float = 1.0

    def __post_init__(self) -> None:
        if self.repository is None and not self.models:
            raise ConfigInvalid("nothing to serve: give --model_repository=DIR or --model_base_path=DIR")
        if self.repository is not None and not self.repository.is_dir():
            raise ConfigInvalid(f"--model_repository={self.repository} is no directory")
        for path in self.models.values():
            if not path.is_dir():
                raise ConfigInvalid(f"--model_base_path={path} is no directory")
        if any(not name or "/" in name for name in self.models):
            raise ConfigInvalid(f"--model_name must be a name without slashes, got {sorted(self.models)}")
        if not self.poll_wait_s >= 0:
            raise ConfigInvalid(f"--file_system_poll_wait_seconds must be at least 0, got {self.poll_wait_s}")
        if self.poll_wait_s > MAX_WAIT_S:
            raise ConfigInvalid(
                f"--file_system_poll_wait_seconds must be at most {MAX_WAIT_S:.0f}, got {self.poll_wait_s}"
            )


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Everything that a server is started with.

    Attributes:
        network: Where it listens.
        source: What it serves.
        manager: How versions are loaded.
        batching: How requests are merged.
        saved_model: How TensorFlow runs.
        grace_s: How long requests in flight have when it stops.
    """

    network: NetworkOptions
    source: SourceOptions
    manager: ManagerOptions = field(default_factory=ManagerOptions)
    batching: BatchingOptions = field(default_factory=BatchingOptions)
    saved_model: SavedModelOptions = field(default_factory=SavedModelOptions)
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.grace_s >= 0:
            raise ConfigInvalid(f"--grace_s must be at least 0, got {self.grace_s}")
        if self.grace_s > MAX_WAIT_S:
            raise ConfigInvalid(f"--grace_s must be at most {MAX_WAIT_S:.0f}, got {self.grace_s}")
