"""Versions that are installed and were found damaged: fetched again, and replaced by what they were."""

import os
import time

import pytest
from support.delivery_servers import add_version, delivering
from support.edge_models import publish_scale, rows
from support.fetch_stands import standing
from support.package_senders import sending

from edge_runtime import PackageRefused, Runtime
from edge_runtime.store import lease
from edge_runtime.store.store import Store

FILE = "variants/float32.tflite"


@pytest.fixture
def package(tmp_path):
    """Has a file of 20 kB."""
    return publish_scale(tmp_path / "published", 1, 1.0, content=os.urandom(20_000))


def spoil(path):
    path.write_bytes(b"x" * path.stat().st_size)


def fetched(stand):
    stand.clock.advance(3600)
    stand.step()
    try:
        return stand.store.open("scale", 1).digest
    except PackageRefused as error:
        return str(error)


@pytest.mark.parametrize("pin", [None, 1, "stable"])
@pytest.mark.parametrize("spoiled", [FILE, "manifest.json", "manifest.sha256"])
def test_a_damaged_version_is_replaced_by_what_it_was(tmp_path, package, pin, spoiled):
    """Whatever of it is spoiled and however it was asked for; labels stay, and nothing is fetched where all is well."""
    with standing(tmp_path, package, pin=pin) as (sender, stand):
        assert fetched(stand) == package.digest
        stand.store.label("scale", "stable", 1)
        asked = len(sender.asked)
        spoil(stand.root / "scale/1" / spoiled)
        fetched(stand)
        assert len(sender.asked) == asked, "nobody has said that it is damaged"
        stand.damaged = [1]
        assert fetched(stand) == package.digest
        assert stand.store.labels("scale") == {"stable": 1}
        assert (stand.changes, stand.left) == (2, ["scale"])


def test_only_what_is_damaged_is_replaced_and_only_by_what_it_was(tmp_path, package, caplog):
    """Neither by another package of the same version, nor while a process has it open, nor when it is whole again."""
    other = publish_scale(tmp_path / "other", 1, 2.0)
    with standing(tmp_path, package, pin=1) as (_, stand), sending(other) as stranger:
        assert fetched(stand) == package.digest
        truth, stand.damaged = stand.servers.addresses, [1]
        place = stand.root / "scale/1"
        content = (place / FILE).read_bytes()
        spoil(place / FILE)
        stand.servers.addresses = (stranger.address,)
        assert "SHA-256" in fetched(stand)
        assert stranger.asked == []
        assert "has another package of this version" in caplog.text
        stand.servers.addresses = truth
        held = lease.take(place)
        assert "SHA-256" in fetched(stand)
        assert "is damaged here, and open in a process" in caplog.text
        held.close()
        inode = place.stat().st_ino
        (place / FILE).write_bytes(content)
        assert fetched(stand) == package.digest
        assert place.stat().st_ino == inode
        spoil(place / FILE)
        assert fetched(stand) == package.digest


@pytest.mark.slow
def test_servers_answer_for_a_damaged_version_until_it_is_whole(tmp_path):
    """With the reason `version-damaged`; then the device does, of its own accord."""
    (tmp_path / "store").mkdir()
    spoil(publish_scale(tmp_path / "store", 3, 3.0).path / FILE)
    add_version(tmp_path / "models", 3)
    options = {"fetch": "on-demand", "threads": 1, "poll_interval_s": 3600.0}
    with (
        delivering(tmp_path / "models") as server,
        Runtime.open(tmp_path / "store", fallback=server.address, **options) as runtime,
    ):
        model, seen = runtime.model("scale", version=3), set()

        def here():
            reply = model.predict(rows(1, 1), deadline_ms=20_000)
            assert reply.outputs["y"][0, 0] == 3.0
            seen.add((reply.place.partition(":")[0], reply.reason))
            return reply.place.startswith("device:")

        end_s = time.monotonic() + 60
        while not here():
            assert time.monotonic() < end_s, "the device does not answer"
            time.sleep(0.01)
        assert seen == {("server", "version-damaged"), ("device", "local")}
    Store(tmp_path / "store").open("scale", 3)
