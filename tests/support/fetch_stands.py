"""A fetcher over a store, whose turns are the test's, and which fetches from a Sender."""

from contextlib import contextmanager
from types import SimpleNamespace

from support.clock import FakeClock
from support.edge_stores import fake_trial
from support.package_senders import sending

from edge_runtime.fetching import Fetcher
from edge_runtime.installing import partial
from edge_runtime.remote.way import PLAIN
from edge_runtime.store.store import Store


class Servers:
    """A table of addresses."""

    def __init__(self, *addresses):
        self.addresses = addresses

    def all(self):
        return [SimpleNamespace(address=address, allows=True, way=PLAIN) for address in self.addresses]


class Stand:
    """A fetcher without a thread, over a store."""

    def __init__(self, root, *addresses, pin=None, fetch="on-demand", trial=fake_trial, bytes_s=None):
        root.mkdir(exist_ok=True)
        self.root = root
        self.store = Store(root)
        self.clock = FakeClock()
        self.changes = 0
        self.damaged = []
        self.wanted = [("scale", pin, fetch)]
        self.servers = Servers(*addresses)
        self.fetcher = Fetcher(
            self.store,
            self.servers,
            lambda: self.wanted,
            clock=self.clock,
            bytes_s=bytes_s,
            changed=self.changed,
            damaged=lambda _model: self.damaged,
            trial=trial,
        )

    def changed(self):
        self.changes += 1

    def step(self):
        return self.fetcher.step()

    @property
    def versions(self):
        return self.store.versions("scale")

    @property
    def left(self):
        return sorted(path.name for path in self.root.iterdir())

    @property
    def come(self):
        return sorted(path.name for path in self.root.glob(f"{partial.FOLDER}/*/*"))


@contextmanager
def standing(tmp_path, package, **options):
    with sending(package) as sender:
        yield sender, Stand(tmp_path / "store", sender.address, **options)
