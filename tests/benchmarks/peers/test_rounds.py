"""What is compared, and how it is told."""

from __future__ import annotations

import pytest

from benchmarks.peers.loads import Load
from benchmarks.peers.rounds import Rounds, Row, figures, table


def load(rate: float, p99_ms: float = 1.0, cpu_us: float | None = None, failed: int = 0) -> Load:
    return Load(rate=rate, p50_ms=0.5, p95_ms=0.9, p99_ms=p99_ms, cpu_us=cpu_us, failed=failed)


def row(**changes) -> Row:
    return Row(**{"text": "what", "load": "c=1", "ours": "ours", "theirs": ("a",), "target": 1.4, **changes})


def test_a_ratio_is_of_what_was_measured_in_the_same_round():
    """A round in which the machine was busy slows both sides: the ratio of the medians would not know of that."""
    rounds = Rounds(loads={("ours", "c=1"): [load(20), load(2), load(30)], ("a", "c=1"): [load(10), load(1), load(10)]})
    assert rounds.ratio(row()) == 2


@pytest.mark.parametrize(
    ("figure", "at_most", "expected"),
    [("rate", False, 30 / 20), ("p99_ms", True, 3.0 / 1.0)],
)
def test_of_several_the_best_is_what_counts(figure, at_most, expected):
    """The highest rate, the shortest time."""
    rounds = Rounds(
        loads={
            ("ours", "c=1"): [load(30, 3.0)],
            ("a", "c=1"): [load(10, 1.0)],
            ("b", "c=1"): [load(20, 2.0)],
        }
    )
    assert rounds.ratio(row(theirs=("a", "b"), figure=figure, at_most=at_most)) == pytest.approx(expected)


def test_the_order_turns_round_from_round_to_round():
    """Whoever comes after whom finds a machine that is warmer: both get the same of that."""
    asked: list[tuple[str, str]] = []

    def way(server: str, name: str):
        def measure() -> Load:
            asked.append((server, name))
            return load(1)

        return measure

    keys = [("ours", "c=1"), ("a", "c=1"), ("ours", "c=32"), ("a", "c=32")]
    rounds = Rounds()
    rounds.measure({key: way(*key) for key in keys}, 2)
    assert asked == [*keys, ("a", "c=1"), ("ours", "c=1"), ("a", "c=32"), ("ours", "c=32")]
    assert {key: len(found) for key, found in rounds.loads.items()} == dict.fromkeys(keys, 2)


def test_the_table_says_what_is_met_and_what_would_bring_the_rest():
    """A row that can't be measured has the reason in place of a verdict."""
    rounds = Rounds(
        loads={("ours", "c=1"): [load(28, cpu_us=5)], ("a", "c=1"): [load(20, cpu_us=1)]},
        absent={"b": "`apt install b` brings it"},
    )
    rows = [
        row(),
        row(target=1.5),
        row(figure="cpu_us", at_most=True, target=5),
        row(figure="cpu_us", at_most=True, target=4.9),
        row(theirs=("b",)),
    ]
    lines = table(rounds, rows)[2:]
    assert [line.split(" | ")[-1].strip(" |") for line in lines] == [
        "met",
        "NOT met",
        "met",
        "NOT met",
        "`apt install b` brings it",
    ]
    assert lines[0] == "| what | 28/s | 20/s | 1.40 | at least 1.4 | met |"


def test_the_servers_figures_are_medians():
    """Of all rounds, with the processor time where it was taken."""
    rounds = Rounds(
        loads={("ours", "h2load"): [load(1, 4, 10), load(3, 2, 30), load(2, 3, 20)]}, absent={"b": "it is not there"}
    )
    assert figures(rounds, ["ours", "b"], ["c=1", "h2load"])[2:] == [
        "| ours | - | 2, 0.50/0.90/3.00 | 20 us |",
        "| b | not there: it is not there | | |",
    ]


def test_one_that_fails_is_told_of_and_the_others_are_measured():
    """It is not asked again, and has no figures: what came before belongs to other rounds than the others'."""
    asked: list[str] = []

    def way(name: str, fails_at: int = 99):
        def measure() -> Load:
            asked.append(name)
            if asked.count(name) == fails_at:
                raise RuntimeError("no | request\nwas answered")
            return load(7)

        return measure

    rounds = Rounds()
    rounds.measure({("ours", "c=1"): way("ours", 2), ("a", "c=1"): way("a")}, 3)
    assert (asked.count("ours"), asked.count("a")) == (2, 3)
    assert rounds.failed
    assert table(rounds, [row()])[2] == ("| what | - | - | not there | at least 1.4 | FAILED: no / request |")
    assert figures(rounds, ["ours"], ["c=1"])[2] == "| ours | FAILED: no / request | - |"


def test_what_was_left_out_says_why():
    """A load that nobody was measured at."""
    rounds = Rounds(left_out={"c=1": "left out by --no-mobilenet"})
    assert table(rounds, [row()])[2].endswith("| left out by --no-mobilenet |")


def test_requests_that_failed_stand_beside_what_they_spoil():
    """In the verdict, and in the server's own row."""
    rounds = Rounds(loads={("ours", "c=1"): [load(28, failed=2), load(28, failed=1)], ("a", "c=1"): [load(20)] * 2})
    assert table(rounds, [row()])[2].endswith("| met; 3 requests of ours failed |")
    assert figures(rounds, ["ours"], ["c=1"])[2] == "| ours | 28, 0.50/0.90/1.00; 3 FAILED | - |"
