import json
import threading

import pytest
from support.edge_models import publish_scale
from support.model_servers import model_statuses, serving

from edge_runtime.cli import main
from edge_runtime.remote.sightings import Sighting
from edge_runtime.remote.visit import Visit
from edge_runtime.servers_command import Asked
from fallback_server.protocol.methods import CATALOG_GET
from fallback_server.protocol.proto import edge_pb2 as edge

ALONE = ["--no-mdns", "--timeout", "10"]


def catalog():
    """What a server of ours says: a version that answers, one that failed, and a model without any."""
    good = edge.Version(
        version=3,
        state=edge.Version.AVAILABLE,
        queued_rows=5,
        expected_wait_ms=1.25,
        package_fingerprint="sha256:" + "0123456789abcdef" * 4,
    )
    bad = edge.Version(version=4, state=edge.Version.END, error="its \x1b[31mgraph\nis broken")
    digits = edge.Model(name="digits", versions=[good, bad], labels={"stable": 3}, default_version=3)
    return edge.CatalogUpdate(
        server_id="rack-2", revision=1, models=[digits, edge.Model(name="empty", note="no folder")]
    )


@pytest.fixture
def ours():
    with serving({CATALOG_GET: lambda _: catalog(), **model_statuses()}) as address:
        yield address


def test_addresses_may_follow_options(ours, capsys):
    """Before options and after them; what looks like an option and is none is refused as ever."""
    assert main(["servers", ours, "--model", "digits", "127.0.0.1:1", *ALONE]) == 0
    out = capsys.readouterr().out
    assert ours in out
    assert "127.0.0.1:1" in out
    with pytest.raises(SystemExit):
        main(["servers", ours, "--modle", "digits", *ALONE])
    assert "unrecognized arguments: --modle digits" in capsys.readouterr().err


def test_a_table_of_servers_and_one_of_versions(ours, capsys):
    """Each server with who found it, the way there and its id; each version with its state; what is amiss below."""
    assert main(["servers", ours, *ALONE]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == ["SERVER", "FOUND", "BY", "ANSWERS", "TRUST", "ROUND", "TRIP", "ID"]
    assert lines[1].split()[:5] == [ours, "given", "yes", "plain", "text"]
    assert lines[1].endswith("rack-2")
    assert lines[4].split()[1:] == ["digits", "4", "END", "-", "-", "-", "-", "-"]
    assert lines[5].split()[1:] == [
        "digits",
        "3",
        "AVAILABLE",
        "stable",
        "default",
        "5",
        "rows",
        "1.2",
        "ms",
        "0123456789ab",
    ]
    assert lines[7:] == [
        f"{ours}: empty: no folder",
        f"{ours}: empty has no version",
        f"{ours}: digits/4: its ?[31mgraph?is broken",
    ]


def test_the_same_as_json(ours, capsys):
    """With everything that the table leaves out."""
    assert main(["servers", ours, *ALONE, "--json"]) == 0
    (server,) = json.loads(capsys.readouterr().out)["servers"]
    assert (server["address"], server["found_by"], server["kind"], server["server_id"]) == (
        ours,
        ["given"],
        "catalog",
        "rack-2",
    )
    assert [one["version"] for one in server["models"]["digits"]] == [4, 3]
    assert server["models"]["digits"][1]["wait_ms"] == 1.25


def test_a_tensorflow_serving_is_asked_for_what_is_named_and_installed(tmp_path, capsys):
    """It does not list its models, and the output says so."""
    publish_scale(tmp_path, 1, 2.0)
    with serving(model_statuses(scale=(1,), other=(7,))) as address:
        assert main(["servers", address, *ALONE, "--model", "other", "--store", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "TensorFlow Serving" in lines[1]
    assert [line.split()[1:3] for line in lines[4:6]] == [["other", "7"], ["scale", "1"]]
    assert lines[-1] == f"{address}: it does not list its models"


def test_where_nobody_answers_the_exit_code_is_1(capsys):
    """The table says why; where there is nobody to ask, the error does."""
    with serving({}) as address:
        pass
    assert main(["servers", address, *ALONE]) == 1
    assert "can't be reached" in capsys.readouterr().out
    assert main(["servers", *ALONE, "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"servers": []}
    assert "no server to ask: give its HOST:PORT" in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "'host:port' with a port from 1 to 65535 is expected, got 'nowhere'"),
        (["a:0"], "got 'a:0'"),
        (["--wait", "-1"], "--wait: from 0 to 600 seconds, got -1.0"),
        (["--wait", "nan"], "--wait: from 0 to 600 seconds, got nan"),
        (["--timeout", "0"], "--timeout: from 0.1 to 60 seconds, got 0.0"),
        (["--store", "/nonexistent/store"], "/nonexistent/store"),
    ],
)
def test_bad_input_is_refused(arguments, said, capsys):
    """Before anybody is asked, with exit code 2."""
    assert main(["servers", *arguments, "--no-mdns"]) == 2
    assert said in capsys.readouterr().err


def test_servers_that_are_announced_are_asked_at_once(ours):
    """Each address once, however many announce it; with who found it; one that has gone is left out."""
    with Asked(Visit(names=(), timeout_s=10)) as asked:
        asked.given(ours)
        asked.add(Sighting(key="a", addresses=(ours,), tls=False))
        asked.add(Sighting(key="b", addresses=(ours,), tls=False))
        asked.add(Sighting(key="c", addresses=("127.0.0.1:9",), tls=False))
        asked.remove("c")
        (answer,) = asked.answers()
    assert answer.sources == ("given", "mdns")
    assert answer.seen.kind == "catalog"


def test_forged_announcements_are_bounded():
    """No more are asked than a runtime would keep."""
    before = threading.active_count()
    with Asked(Visit(names=(), timeout_s=0.1)) as asked:
        for port in range(1, 100):
            asked.add(Sighting(key=str(port), addresses=(f"127.0.0.1:{port}",), tls=False))
        assert threading.active_count() - before <= 20
        assert len(asked.answers()) == 64


@pytest.mark.slow
def test_what_announces_itself_is_found(ours, capsys):
    """By a real announcement on this machine's network, without an address."""
    import socket

    from zeroconf import IPVersion, ServiceInfo, Zeroconf

    from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement

    announcement = Announcement(server_id="rack-2")
    info = ServiceInfo(
        SERVICE_TYPE,
        announcement.instance_name,
        port=int(ours.rpartition(":")[2]),
        addresses=[socket.inet_aton("127.0.0.1")],
        properties=announcement.to_txt(),
        server="rack-2.local.",
    )
    announcer = Zeroconf(ip_version=IPVersion.V4Only)
    try:
        announcer.register_service(info)
        main(["servers", "--wait", "3", "--json"])
        found = {one["address"]: one for one in json.loads(capsys.readouterr().out)["servers"]}
    finally:
        announcer.close()
    assert found[ours]["found_by"] == ["mdns"]
    assert found[ours]["server_id"] == "rack-2"


def test_a_server_that_lists_thousands_fills_no_screen(capsys):
    """The first thousand of its versions are shown, and how many more there are; JSON has all, and is JSON."""
    versions = [
        {"version": number + 1, "state": 30, "error": "amiss", "expected_wait_ms": float("nan")}
        for number in range(1500)
    ]
    update = edge.CatalogUpdate(
        models=[{"name": "m", "versions": versions, "labels": {f"l{number:02}": 1500 for number in range(50)}}]
    )
    with serving({CATALOG_GET: lambda _: update, **model_statuses()}) as address:
        assert main(["servers", address, *ALONE]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert main(["servers", address, *ALONE, "--json"]) == 0
        out = capsys.readouterr().out
    assert len(lines) < 2020
    assert lines[-2:] == [f"{address}: 500 more {what}, which --json shows" for what in ("versions", "notes")]
    assert ", l15, ..." in lines[4]
    assert len(json.loads(out)["servers"][0]["models"]["m"]) == 1500
    assert "NaN" not in out
