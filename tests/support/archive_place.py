"""A base path of archives, and a source that looks at it an hour later."""

import time

from fallback_server.core.archive import Unpacker
from fallback_server.core.model_config import ModelConfig, PolicyKind, VersionPolicy
from fallback_server.core.notes import NOTES
from fallback_server.core.servable import ServableId
from fallback_server.core.source import FileSystemSource

LATER_S = 3600.0
M7 = ServableId("m", 7)


class Place:
    """A base path, and a source that looks at it an hour later."""

    def __init__(self, tmp_path, **options):
        self.base = tmp_path / "m"
        self.base.mkdir(parents=True)
        self.unpacker = Unpacker(**options)
        config = ModelConfig(name="m", base_path=self.base, version_policy=VersionPolicy(kind=PolicyKind.ALL))
        self.source = FileSystemSource(configs=[config], packed=self.unpacker, wall_clock=lambda: time.time() + LATER_S)

    def poll(self):
        return self.source.poll().aspired

    def prepare(self, aspired=None):
        aspired = (aspired or self.poll())[M7]
        self.unpacker.prepare(M7, aspired)
        return aspired

    def files(self):
        return sorted(path.name for path in self.base.iterdir() if path.name != NOTES)
