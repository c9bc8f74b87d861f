import pytest
from msgspec.structs import replace
from support.snapshots import SERVER, busy, snapshot

from edge_runtime.figures import bytes_text, count_text, duration_text, number_text
from edge_runtime.screen_text import shown
from edge_runtime.snapshot import decode, encode
from edge_runtime.telemetry import FetchStats, RuntimeStats, ServerStats, TrustStats, UntrustedServer
from edge_runtime.top_view import WINDOW, view


def text(*history, blocks=True):
    found = view(history, "127.0.0.1:9101", blocks=blocks)
    return [shown(one, None, colours=False) for one in (*found.head, *found.body)]


def row(lines, start):
    """The cells of the line that begins so, where two blanks part them."""
    (found,) = [one for one in lines if one.startswith(start)]
    return [cell.strip() for cell in found.split("  ") if cell.strip()]


def test_one_look_shows_what_was_since_the_start():
    """Everything that the runtime tells has its place: models, places and reasons, servers, engines, errors, heat."""
    lines = text(snapshot())
    assert lines[0] == "edge-run top  127.0.0.1:9101  camera.py  pid 42, up 1 h 1 min, 200 MiB"
    assert lines[1].startswith("121 requests, 3 errors   p50 ")
    assert lines[2] == "cpu-thermal 81.5 °C  apex_0 90.0 °C  clock 600 of 1800 MHz"
    assert lines[3] == "throttled: cpu runs take 3.00 x"
    assert lines[4] == "firmware: throttled, seen_under_voltage"
    assert row(lines, "digits/3    ")[:2] == ["digits/3", "120"]
    assert row(lines, "digits/3    ")[4:] == ["3", "7", "1 of 2 (+1)", "2.5", "5"]
    assert row(lines, "faces/latest")[5:] == ["-", "remote", "-", "-"]
    assert row(lines, "device:cpu")[:4] == ["device:cpu", "local", "100", "82.6 %"]
    assert row(lines, f"server:{SERVER}  overloaded")[2] == "20"
    assert row(lines, f"{SERVER} ") == [SERVER, "closed", "2", "21", "0.80", "2.5 MB", "12.5", "digits/2,3"]
    assert row(lines, "10.0.0.8:8500") == ["10.0.0.8:8500", "open", "0", "0", "-", "-", "-", "not known"]
    engine = row(lines, "digits/3  edgetpu")
    assert engine[1:5] == ["edgetpu:usb:0", "unhealthy", "int8-edgetpu", "1"]
    assert engine[5:] == ["here", "1", "2", "1", "it hangs"]
    assert row(lines, "digits/3  cpu")[4:6] == ["2", "worker"]
    assert row(lines, "digits/3  TimeoutError") == ["digits/3", "TimeoutError", "3", "3"]


def test_rates_are_of_the_last_steps():
    """Two looks two seconds apart: what came between them, a second; the processor's time of the last step."""
    lines = text(
        snapshot(busy(local=100), taken_s=100.0, cpu_s=5.0),
        snapshot(busy(local=300, failed=4, dropped=15), taken_s=102.0, cpu_s=6.0),
    )
    assert "cpu 50 %" in lines[0]
    assert lines[1].startswith("100/s requests, 0.5/s errors")
    assert row(lines, "device:cpu")[2:4] == ["100", "100.0 %"]
    assert row(lines, f"server:{SERVER}  overloaded")[2:] == ["0", "0.0 %", "-", "-", "20"]
    assert row(lines, "digits/3    ")[-1] == "5"
    assert row(lines, "digits/3  TimeoutError")[2:] == ["0.5", "4"]


def test_the_window_moves_on():
    """What was before it counts no more, but for the curve."""
    looks = [snapshot(busy(local=100 * min(n, 3)), taken_s=float(n)) for n in range(1, 3 + WINDOW + 1)]
    lines = text(*looks)
    assert lines[1].startswith("0/s requests")
    assert "█" in lines[1]
    assert "█" not in text(*looks, blocks=False)[1]


@pytest.mark.parametrize(
    "later", [snapshot(pid=43, taken_s=101.0), snapshot(taken_s=1.0), snapshot(busy(local=1), taken_s=101.0)]
)
def test_a_restart_begins_anew(later):
    """Another process, or counters that went back: nothing is taken from the other's."""
    assert text(snapshot(), later) == text(later)


def test_a_version_that_was_loaded_anew_has_no_negative_rates():
    """Its queue's counters begin at 0, while its requests are counted on."""
    lines = text(snapshot(busy(dropped=50)), snapshot(busy(local=200, dropped=1), taken_s=101.0))
    assert row(lines, "digits/3    ")[-1] == "0"


def test_a_package_on_its_way_is_shown():
    """Which, from where, how much of it, and how fast it comes; nothing where none does."""
    fetch = FetchStats(
        model="faces", version=7, server=SERVER, state="fetching", held_bytes=3_000_000, total_bytes=12_000_000
    )
    now = snapshot(RuntimeStats(fetch=fetch), taken_s=102.0)
    assert row(text(now), "faces/7") == ["faces/7", SERVER, "fetching", "3.0 MB", "12.0 MB", "25 %", "-"]
    earlier = snapshot(RuntimeStats(fetch=replace(fetch, held_bytes=1_000_000)), taken_s=100.0)
    assert row(text(earlier, now), "faces/7")[-1] == "1.0 MB"
    assert row(text(snapshot(RuntimeStats(), taken_s=100.0), now), "faces/7")[-1] == "-"
    assert not [line for line in text(snapshot()) if line.startswith("FETCHED")]
    assert decode(encode(now)).stats.fetch == fetch


@pytest.mark.parametrize(
    ("state", "said"), [("unreachable", "unreachable 1 min 5 s"), ("open", "open, unreachable 1 min 5 s")]
)
def test_a_server_that_is_away_is_shown_so(state, said):
    """Whatever its breaker is, and for how long."""
    away = RuntimeStats(endpoints=(ServerStats(address=SERVER, state=state, unreachable_s=65.0),))
    assert row(text(snapshot(away)), SERVER)[1] == said


def test_an_idle_runtime_says_so():
    """Instead of tables without a line."""
    assert text(snapshot(RuntimeStats()))[-1] == "no model has been asked for yet"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (count_text(0), "0"),
        (count_text(0.25), "0.2"),
        (count_text(99999), "99999"),
        (count_text(123456), "123.5k"),
        (count_text(2.5e6), "2.5M"),
        (number_text(0.123), "0.12"),
        (number_text(12.34), "12.3"),
        (number_text(1234.5), "1234"),
        (bytes_text(999), "999 B"),
        (bytes_text(64e3), "64.0 kB"),
        (duration_text(59), "59 s"),
        (duration_text(61), "1 min 1 s"),
        (duration_text(7260), "2 h 1 min"),
        (duration_text(200_000), "2 d 7 h"),
    ],
)
def test_figures_can_be_read_at_a_glance(said, expected):
    """A few digits, and a unit that fits."""
    assert said == expected


def test_servers_that_are_not_trusted_are_shown():
    """The latest first, a few of them, with why; a stranger's name writes no lines."""
    many = tuple(
        UntrustedServer(name=f"evil-{n}\n", address=f"10.0.0.{n}:1", reason="certificate", said="self-signed", times=n)
        for n in range(1, 9)
    )
    lines = text(replace(snapshot(), stats=RuntimeStats(trust=TrustStats(untrusted=many, dropped=7))))
    assert row(lines, "10.0.0.8:1") == ["10.0.0.8:1", "certificate", "8", "0 s ago", "evil-8?", "self-signed"]
    assert not [one for one in lines if one.startswith("10.0.0.3:1")]
    assert lines[-2:] == ["and 3 more", "7 announcements came faster than they are looked at"]


def test_files_that_are_not_in_force_are_shown():
    """Why, in one line."""
    trust = TrustStats(files="tls.crl: an older list\n")
    lines = text(replace(snapshot(), stats=RuntimeStats(trust=trust)))
    assert lines[-1].startswith("files for TLS as they are now are not in force: tls.crl: an older list")
