"""Which of several servers a package comes from, which one is followed, and what is said of them."""

import json
import os

import grpc
import pytest
from support.delivery_servers import add_version, delivering
from support.edge_models import publish_scale
from support.fetch_stands import Stand, standing
from support.package_senders import sending

from edge_runtime import PackageRefused, fetching
from edge_runtime.fetch_policy import FAITHFUL_S, FOLLOWED

FILE = "variants/float32.tflite"


@pytest.fixture
def package(tmp_path):
    """Has a file of 20 kB."""
    return publish_scale(tmp_path / "published", 1, 1.0, content=os.urandom(20_000))


def test_a_server_that_is_followed_is_followed_back_too(tmp_path):
    """Its latest, and its label: what it goes to is fetched, what it goes back to is pointed to."""
    add_version(tmp_path / "models", 1)
    add_version(tmp_path / "models", 2)
    with delivering(tmp_path / "models") as server:
        server.control.set_label("scale", "stable", 1)
        stand = Stand(tmp_path / "store", server.address, fetch="follow")
        stand.wanted.append(("scale", "stable", "follow"))

        def labels():
            stand.step()
            stand.clock.advance(fetching.FOLLOW_S)
            return stand.store.labels("scale")

        assert labels() == {FOLLOWED: 2, "stable": 1}
        assert stand.versions == [1, 2]
        server.control.rollback("scale")
        assert labels() == {FOLLOWED: 1, "stable": 1}
        server.control.rollback("scale", undo=True)
        server.control.set_label("scale", "stable", 2)
        assert labels() == {FOLLOWED: 2, "stable": 2}
        add_version(tmp_path / "models", 3)
        server.look()
        assert labels() == {FOLLOWED: 3, "stable": 2}
        changes = stand.changes
        labels()
        assert stand.changes == changes


def test_the_label_of_what_is_followed_goes_where_nothing_else_does(tmp_path, caplog):
    """A server's own label of that name moves it nowhere; who asks for it is told once."""
    for version in (1, 2):
        add_version(tmp_path / "models", version)
    with delivering(tmp_path / "models") as server:
        server.control.set_label("scale", FOLLOWED, 1)
        stand = Stand(tmp_path / "store", server.address, fetch="follow")
        stand.wanted.append(("scale", FOLLOWED, "follow"))
        for _ in range(3):
            stand.step()
            stand.clock.advance(60)
            assert stand.store.labels("scale") == {FOLLOWED: 2}
        assert (stand.versions, stand.changes) == ([2], 1)
    assert sum(f"no server is asked for its label '{FOLLOWED}'" in one.message for one in caplog.records) == 1


def test_while_a_server_that_is_followed_starts_again_nobody_goes_back(tmp_path, package):
    """To the older version of another one; that comes first only when the followed one has been away for long."""
    newer = publish_scale(tmp_path / "newer", 2, 2.0)
    with sending(newer) as followed, sending(package) as other:
        stand = Stand(tmp_path / "store", followed.address, fetch="follow")

        def label():
            stand.step()
            stand.clock.advance(60)
            return stand.store.labels("scale")

        assert label() == {FOLLOWED: 2}
        followed.describe = lambda request: grpc.StatusCode.UNAVAILABLE
        stand.servers.addresses = (followed.address, other.address)
        assert [label() for _ in range(2)] == [{FOLLOWED: 2}] * 2
        stand.servers.addresses = (other.address,)
        assert label() == {FOLLOWED: 2}
        stand.clock.advance(FAITHFUL_S)
        assert label() == {FOLLOWED: 1}


@pytest.mark.parametrize("pin", [None, "stable"])
def test_whom_it_followed_is_known_after_a_restart(tmp_path, package, pin, caplog):
    """While that one starts again nobody goes back to the older version of another, then as without a restart."""
    newer = publish_scale(tmp_path / "newer", 2, 2.0)
    label = pin or FOLLOWED
    with sending(newer) as followed, sending(package) as other:
        Stand(tmp_path / "store", followed.address, pin=pin, fetch="follow").step()
        written = tmp_path / "store/scale/followed.json"
        assert json.loads(written.read_bytes()) == {label: followed.address}
        for addresses in [(other.address,), (other.address, followed.address)]:
            stand = Stand(tmp_path / "store", *addresses, pin=pin, fetch="follow")
            for _ in range(3):
                stand.step()
                assert stand.store.labels("scale") == {label: 2}
                stand.clock.advance(60)
        stand.servers.addresses = (other.address,)
        stand.step()
        stand.clock.advance(FAITHFUL_S)
        stand.step()
        assert stand.store.labels("scale") == {label: 1}
        assert json.loads(written.read_bytes()) == {label: other.address}
        # What was written over by another program is begun anew.
        written.write_bytes(b"[")
        Stand(tmp_path / "store", followed.address, pin=pin, fetch="follow").step()
        assert "which server was followed is not known" in caplog.text
        assert json.loads(written.read_bytes()) == {label: followed.address}


def test_another_server_is_asked_where_one_fails(tmp_path, package):
    """One that has none, knows no such call, or sends what is wrong; who brought it is asked first from then."""
    with sending(package) as first, sending(package) as second, sending(package) as third:
        in_order = sorted([first, second, third], key=lambda one: one.address)
        in_order[0].describe = lambda request: grpc.StatusCode.UNIMPLEMENTED
        in_order[1].send = lambda request: iter([b"x" * 10**6])
        stand = Stand(tmp_path / "store", *(one.address for one in in_order), fetch="follow")
        stand.step()
        assert stand.versions == [1]
        asked = []
        for number, one in enumerate(in_order):
            one.describe = lambda request, one=one, number=number: (asked.append(number), one.truth())[1]
        stand.clock.advance(60)
        stand.step()
        assert asked == [2]


def test_a_server_that_drips_keeps_a_package_from_coming_from_no_other(tmp_path, package):
    """When its turn is over the next one is another server's, and goes on at the byte that came last."""
    with sending(package) as one, sending(package) as other:
        slow, fast = sorted([one, other], key=lambda sender: sender.address)
        slow.break_off_after, slow.break_off_as = 8000, grpc.StatusCode.DEADLINE_EXCEEDED
        stand = Stand(tmp_path / "store", slow.address, fast.address, pin=1)
        assert (stand.step(), fast.asked) == (0.0, [])
        stand.step()
        assert (stand.versions, fast.asked) == ([1], [(FILE, 8000)])


def test_servers_that_have_nothing_are_asked_ever_less_often_and_said_once(tmp_path, package, caplog):
    """One warning as long as it is the same; a wait that grows; and it is fetched when a server has it."""
    with standing(tmp_path, package) as (sender, stand):
        sender.describe = lambda request: grpc.StatusCode.NOT_FOUND
        waits = []
        for _ in range(5):
            waits.append(stand.step())
            stand.clock.advance(waits[-1])
        assert waits == [1.0, 2.0, 4.0, 8.0, fetching.FOLLOW_S]
        assert sum("scale/latest: no server brings its package" in one.message for one in caplog.records) == 1
        sender.describe = sender.truth
        stand.clock.advance(60)
        stand.step()
        assert stand.versions == [1]


def test_a_servers_words_forge_no_line_of_the_log(tmp_path, package, caplog):
    """Nor do they move a terminal's cursor, or fill the disk, though they differ each time."""
    with standing(tmp_path, package) as (sender, stand):
        sender.describe_words = "gone\x1b[2J\nCRITICAL forged" + "x" * 5000
        sender.describe = lambda request: grpc.StatusCode.NOT_FOUND
        for number in range(30):
            sender.describe_words = f"{number}{sender.describe_words}"
            for stand.wanted in ([("scale", None, "follow")], []):  # Wanted anew, it is asked for at once.
                stand.step()
    said = [one.message for one in caplog.records]
    assert len(said) == 10
    assert "gone\\x1b[2J\\nCRITICAL forgedxxx" in said[0]
    assert all(text.isprintable() and len(text) < 600 for text in said)


def test_the_reason_for_a_refusal_is_said_once_and_last(tmp_path, package, caplog):
    """Also where it has the name of a folder that is drawn by lot."""

    def trial(tried):
        raise PackageRefused(f"{tried.path} crashes")

    with standing(tmp_path, package, trial=trial) as (_, stand):
        for _ in range(3):
            stand.step()
            stand.clock.advance(fetching.REFUSED_S / 2)
    (said,) = [one.message for one in caplog.records]
    assert "/.staging-*/tree crashes" in said
