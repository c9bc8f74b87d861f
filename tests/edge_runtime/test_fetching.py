"""What is fetched from real servers over gRPC; the turns are the test's, the first run of a package a fake one."""

import hashlib
import json
import os
from types import SimpleNamespace

import pytest
from support.delivery_servers import add_version, delivering
from support.edge_models import publish_scale
from support.edge_stores import fake_trial
from support.fetch_stands import Stand, standing
from support.package_senders import sending

from edge_runtime import EngineFailed, PackageRefused, fetch_room, fetching
from edge_runtime.installing import partial
from edge_runtime.installing.install import install
from edge_runtime.installing.inventory import write_quota
from edge_runtime.store.removal import remove
from fallback_server.protocol.proto import edge_pb2 as pb

FILE = "variants/float32.tflite"


@pytest.fixture
def package(tmp_path):
    """Has a file of 20 kB."""
    return publish_scale(tmp_path / "published", 1, 1.0, content=os.urandom(20_000))


def test_what_lacks_is_fetched_and_installed(tmp_path):
    """From a server of ours, by version, label and neither; the runtime is told, and nothing is left behind."""
    for version in (1, 2):
        add_version(tmp_path / "models", version)
    with delivering(tmp_path / "models") as server:
        server.control.set_label("scale", "stable", 1)
        for number, (pin, version, labels) in enumerate([(1, 1, {}), ("stable", 1, {"stable": 1}), (None, 2, {})]):
            stand = Stand(tmp_path / f"store{number}", server.address, pin=pin)
            assert stand.step() == fetching.FOLLOW_S
            assert (stand.versions, stand.store.labels("scale"), stand.changes) == ([version], labels, 1)
            stand.step()
            assert (stand.changes, stand.left) == (1, ["scale"])


def test_what_is_broken_off_goes_on_where_it_was(tmp_path, package):
    """At the byte that came last, by another process and from another server too; what has come whole stays."""
    with standing(tmp_path, package) as (sender, stand):
        sender.break_off_after = 8000
        assert stand.step() == fetching.BROKEN_OFF_S
        assert sender.asked == [("manifest.json", 0), (FILE, 0)]
        assert stand.versions == []
    with sending(package) as other:
        stand = Stand(tmp_path / "store", other.address)
        stand.step()
        assert other.asked == [(FILE, 8000)]
        assert (stand.versions, stand.come) == ([1], [])


def test_closing_ends_a_verification_under_way(tmp_path, package, monkeypatch):
    """Nothing is installed after that, nobody waits for a large package, and what has come is there the next time."""
    with standing(tmp_path, package) as (sender, stand):

        def closed_meanwhile(*arguments, **options):
            stand.fetcher.close()
            return install(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(fetching, "install", closed_meanwhile)
            stand.step()
        assert stand.versions == []
        asked = list(sender.asked)
        after = Stand(tmp_path / "store", sender.address)
        after.step()
        assert (after.versions, sender.asked) == ([1], asked)


def test_what_is_under_way_can_be_seen(tmp_path, package):
    """Which package, from where, how much of it has come; nothing before and after."""
    seen = []

    def trial(tried):
        seen.append(stand.fetcher.stats)
        return fake_trial(tried)

    with standing(tmp_path, package, trial=trial) as (sender, stand):
        total = sum(file.bytes for file in sender.truth().files)

        def send(request):
            seen.append(stand.fetcher.stats)
            yield from sender.pieces(request)

        sender.send = send
        assert stand.fetcher.stats is None
        sender.break_off_after = 8000
        stand.step()
        assert stand.fetcher.stats is None
        sender.break_off_after = None
        stand.clock.advance(60)
        stand.step()
        assert stand.fetcher.stats is None
        assert {(one.model, one.version, one.server, one.total_bytes) for one in seen} == {
            ("scale", 1, sender.address, total)
        }
        assert [one.state for one in seen] == ["fetching"] * 3 + ["installing"]
        held = [one.held_bytes for one in seen]
        assert held == sorted(held)
        assert held[2] >= held[1] + 8000
        assert held[3] == total


def described(sender, change):
    answer = sender.truth()
    change(answer)
    return answer


def grow(answer):
    answer.files[0].bytes = 10**15


LIES = {
    "another model": lambda one: setattr(one, "model", "other"),
    "a name that leads out": lambda one: setattr(one, "model", "../../scale"),
    "another version": lambda one: setattr(one, "version", 7),
    "a version that can't be": lambda one: setattr(one, "version", -1),
    "a digest that leads out": lambda one: setattr(one, "digest", "sha256:../../../../evil"),
    "another digest": lambda one: setattr(one, "digest", "sha256:" + "0" * 64),
    "a manifest of a petabyte": grow,
    "a petabyte": lambda one: one.files.add(path="x", bytes=10**15),
    "less than nothing": lambda one: one.files.add(path="x", bytes=-(10**15)),
    "less than there is": lambda one: one.files.pop(),
    "no manifest": lambda one: one.files.pop(0),
    "nothing": lambda one: one.Clear(),
    "ten thousand files": lambda one: one.files.extend(pb.PackageFile(path=str(i)) for i in range(10_000)),
    "more than is taken into memory": lambda one: one.files.add(path="x" * 5_000_000),
}


@pytest.mark.parametrize("lie", LIES)
def test_no_description_does_harm(tmp_path, package, lie):
    """One that is not of what was asked for, or impossible, or false: nothing is installed, nor written elsewhere."""
    with standing(tmp_path, package, pin=1) as (sender, stand):
        sender.describe = lambda request: described(sender, LIES[lie])
        before = sorted(tmp_path.iterdir())
        assert stand.step() == 1.0
        assert (stand.versions, sorted(tmp_path.iterdir())) == ([], before)
        assert sum(path.stat().st_size for path in stand.root.rglob("*") if path.is_file()) < 10_000
        # Nor does it stand in the way of the truth.
        sender.describe = sender.truth
        stand.clock.advance(60)
        stand.step()
        assert stand.versions == [1]


def endless(request):
    while True:
        yield b"x" * 100_000


SENT = {
    "other bytes": lambda request: [b"y" * 20_000],
    "more": endless,
    "less": lambda request: [b"y" * 10],
    "nothing": lambda request: [],
    "a message larger than is taken": lambda request: [b"y" * 5_000_000],
    "many empty ones": lambda request: [b""] * 10_000,
}


@pytest.mark.parametrize("what", SENT)
def test_no_bytes_do_harm(tmp_path, package, what):
    """Those that are not the file's: no more than its size is ever written, and what is wrong is not kept."""
    with standing(tmp_path, package, pin=1) as (sender, stand):
        sender.send = lambda request: SENT[what](request) if request.path == FILE else sender.pieces(request)
        stand.step()
        assert stand.versions == []
        assert sum(path.stat().st_size for path in stand.root.rglob("*") if path.is_file()) < 25_000
        sender.send = sender.pieces
        stand.clock.advance(60)
        stand.step()
        assert stand.versions == [1] or what == "less"  # Those ten bytes are found wrong at the end, and then gone.
        stand.clock.advance(60)
        stand.step()
        assert stand.versions == [1]


def forged(package, change):
    """The package with another manifest, and all digests made to fit."""
    place = package.path / "manifest.json"
    content = json.loads(place.read_bytes())
    change(content)
    place.write_text(json.dumps(content))
    digest = hashlib.sha256(place.read_bytes()).hexdigest()
    (package.path / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    answer = pb.PackageDescription(model="scale", version=1, digest=f"sha256:{digest}")
    answer.files.add(path="manifest.json", bytes=place.stat().st_size)
    answer.files.add(path="rest", bytes=10**6)
    return answer


def test_a_package_of_very_many_files_is_refused_at_its_manifest(tmp_path, package, caplog):
    """However little they hold: nothing but the manifest comes, which is gone, and the count and bound are told."""
    empty = {"size_bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    with standing(tmp_path, package, pin=1) as (sender, stand):
        answer = forged(package, lambda it: it["files"].update({f"d{number}/x": empty for number in range(5000)}))
        sender.describe = lambda request: answer
        stand.step()
        assert (stand.versions, stand.left) == ([], [])
        assert [path for path, _ in sender.asked] == ["manifest.json"]
    assert "5001 files: at most 1000 are allowed" in caplog.text


def rename(path):
    def change(content):
        content["files"][path] = content["files"].pop(FILE)
        content["variants"][0]["file"] = path

    return change


@pytest.mark.parametrize(
    "path", ["../../../evil", "/evil", "a/../../evil", "x" * 300, "manifest.json/x", "manifest.json"]
)
def test_no_path_leads_out(tmp_path, package, path):
    """Of a package whose digests are all right: it is refused, nothing is written elsewhere, and it is left alone."""
    answer = forged(package, rename(path))
    with standing(tmp_path, package, pin=1) as (sender, stand):
        sender.describe = lambda request: answer
        file = (package.path / FILE).read_bytes()
        sender.send = lambda request: sender.pieces(request) if request.path == "manifest.json" else iter([file])
        before = sorted(tmp_path.iterdir())
        stand.step()
        stand.clock.advance(60)
        asked = len(sender.asked)
        stand.step()
        assert (stand.versions, stand.come, sorted(tmp_path.iterdir())) == ([], [], before)
        assert len(sender.asked) == asked


@pytest.mark.parametrize(
    ("error", "left_alone_s", "kept"),
    [
        (PackageRefused("crashes"), fetching.REFUSED_S, False),
        (EngineFailed("no memory"), fetching.ENGINE_FAILED_S, True),
    ],
)
def test_what_was_refused_is_left_alone_for_a_while(tmp_path, package, error, left_alone_s, kept):
    """A package that its first run refused is not fetched again at once; one that no engine took is kept."""
    trials = []

    def trial(package):
        trials.append(package)
        if len(trials) == 1:
            raise error
        return fake_trial(package)

    with standing(tmp_path, package, trial=trial) as (_, stand):
        stand.step()
        assert (stand.versions, bool(stand.come)) == ([], kept)
        stand.clock.advance(left_alone_s - 1)
        stand.step()
        assert len(trials) == 1
        stand.clock.advance(61)
        stand.step()
        assert stand.versions == [1]


@pytest.mark.parametrize("same", [True, False])
def test_what_somebody_else_installed_meanwhile_is_not_refused(tmp_path, package, same):
    """Nothing is wrong with it: should its version be removed, it is fetched at once."""
    other = package if same else publish_scale(tmp_path / "other", 1, 5.0)

    def trial(tried):
        if not removed:
            install(other.path, tmp_path / "store", trial=fake_trial)
        return fake_trial(tried)

    removed = []
    with standing(tmp_path, package, trial=trial) as (_, stand):
        stand.step()
        assert stand.store.open("scale", 1).digest == other.digest
        removed.append(remove(stand.store, "scale", 1))
        stand.clock.advance(60)
        stand.step()
        assert stand.store.open("scale", 1).digest == package.digest


def test_there_is_room_or_nothing_comes(tmp_path, package, monkeypatch):
    """Neither beyond the store's quota, nor what would fill the disk, nor more than is ever fetched."""
    with standing(tmp_path, package) as (sender, stand):

        def stays_away():
            stand.clock.advance(60)
            stand.step()
            return stand.versions == [] and (FILE, 0) not in sender.asked

        write_quota(stand.store, 1000)
        assert stays_away()
        write_quota(stand.store, None)
        monkeypatch.setattr(fetch_room, "MAX_PACKAGE_BYTES", 1000)
        assert stays_away()
        monkeypatch.undo()
        monkeypatch.setattr(fetch_room, "FREE_BYTES", 10**15)
        assert stays_away()
        monkeypatch.undo()
        stand.clock.advance(60)
        stand.step()
        assert stand.versions == [1]


def test_a_disk_without_room_is_said_once_though_ever_less_is_free(tmp_path, package, monkeypatch, caplog):
    """By its cause and not by the figures in its text; when the cause is another one, that is said, and then again."""
    with standing(tmp_path, package) as (_, stand):

        def said(free_bytes):
            monkeypatch.setattr(fetch_room.shutil, "disk_usage", lambda _path: SimpleNamespace(free=free_bytes))
            stand.clock.advance(60)
            stand.step()
            return len(caplog.records)

        assert [said(free_bytes) for free_bytes in (9_000_000, 5_000_000, 0)] == [1, 1, 1]
        assert "8.58 MiB are free" in caplog.text
        write_quota(stand.store, 1000)
        assert [said(1000), said(900)] == [2, 2]
        write_quota(stand.store, None)
        assert said(800) == 3


def test_a_package_needs_the_room_of_its_files_once(tmp_path, package, monkeypatch):
    """Not of the installed copy too: what has come is what is installed."""
    total = sum(path.stat().st_size for path in package.path.rglob("*") if path.is_file())
    with standing(tmp_path, package) as (_, stand):
        for free_bytes, versions in ((total - 1, []), (total, [1])):
            free = SimpleNamespace(free=free_bytes + fetch_room.FREE_BYTES)
            monkeypatch.setattr(fetch_room.shutil, "disk_usage", lambda _path, free=free: free)
            stand.clock.advance(60)
            stand.step()
            assert stand.versions == versions
        assert stand.left == ["scale"]


def test_what_has_come_of_others_is_bounded(tmp_path, package, monkeypatch):
    """Packages that a server describes one after the other and never sends whole do not fill the disk; nor for good."""
    monkeypatch.setattr(fetch_room, "MAX_PACKAGE_BYTES", 60_000)
    with standing(tmp_path, package, pin=1) as (sender, stand):
        for number in range(10):
            sender.package = publish_scale(tmp_path / f"other{number}", 1, 1.0, content=os.urandom(20_000))
            sender.break_off_after = 15_000
            stand.step()
            stand.clock.advance(60)
        assert sum(path.stat().st_size for path in stand.root.rglob("*") if path.is_file()) < 60_000
        assert len(list(stand.root.glob(f"{partial.FOLDER}/*"))) in (2, 3)
        stand.wanted.clear()
        stand.clock.advance(fetching.KEPT_S - 61)
        stand.step()
        assert stand.come
        stand.clock.advance(61)
        stand.step()
        assert stand.left == []


def test_digests_without_end_leave_nothing_behind(tmp_path, package, monkeypatch):
    """A server that describes ever other packages, and sends their manifests alone or nothing, fills no folder."""
    monkeypatch.setattr(partial, "MAX_PARTIALS", 4)
    with standing(tmp_path, package, pin=1) as (sender, stand):

        def step():
            stand.step()
            stand.clock.advance(60)
            return len(list(stand.root.glob(f"{partial.FOLDER}/*")))

        for number in range(8):
            change = {"version": 1, "digest": f"sha256:{number:064}"}
            sender.describe = lambda request, change=change: described(sender, lambda one: set_all(one, change))
            assert step() == 0
        sender.send = lambda request: sender.pieces(request) if request.path == "manifest.json" else iter(())
        sender.describe = sender.truth
        seen = []
        for number in range(8):
            sender.package = publish_scale(tmp_path / f"other{number}", 1, 1.0, content=os.urandom(20_000))
            seen.append(step())
        assert seen == [1, 2, 3, 4, 4, 4, 4, 4]


def set_all(answer, values):
    for name, value in values.items():
        setattr(answer, name, value)


def test_a_version_that_is_there_is_not_replaced(tmp_path, package):
    """Where the server has another package of an installed version, the device's stays."""
    own = publish_scale(tmp_path / "own", 1, 5.0)
    with standing(tmp_path, package, fetch="follow") as (sender, stand):
        install(own.path, stand.root, trial=None)
        stand.step()
        assert stand.store.open("scale", 1).digest == own.digest
        assert sender.asked == []


def test_two_that_fetch_the_same_share_what_comes(tmp_path, package):
    """While one process fetches a package another one leaves it to that."""
    with standing(tmp_path, package) as (sender, stand):
        described = sender.truth()
        with partial.taken(stand.root, "scale", 1, described.digest, manifest_bytes=1):
            assert stand.step() == 1.0
            assert sender.asked == []
        stand.clock.advance(1)
        stand.step()
        assert stand.versions == [1]
