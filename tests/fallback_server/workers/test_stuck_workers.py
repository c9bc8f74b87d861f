"""Workers that hang are found, ended and replaced, and hold up no stop."""

import queue
import select
import socket
import threading
from pathlib import Path

import pytest
from support.clock import FakeClock
from support.worker_servers import alive, wait_for

from fallback_server.access.rules import AccessRules
from fallback_server.batching.options import BatchingOptions
from fallback_server.workers.channel import Channel
from fallback_server.workers.epoch import Epoch
from fallback_server.workers.limits import DRAINING_SILENT_S, SILENT_S
from fallback_server.workers.messages import Access, Begin, Figures
from fallback_server.workers.team import Team
from fallback_server.workers.worker_main import Worker

BEGIN = Begin(
    index=0,
    host="127.0.0.1",
    port=1,
    native=False,
    passes_to="/absent",
    secret=b"",
    access=Access(rules=AccessRules()),
    batching=BatchingOptions(),
)


@pytest.fixture
def stuck(monkeypatch):
    """Teams whose workers run a program of `support`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    teams = []

    def started(program, **options):
        team = Team(2, catalog=tuple, absorb=lambda _: None, program=f"support.{program}", **options)
        teams.append(team)
        team.start(BEGIN)
        assert team.wait_listening(timeout_s=60)
        return team

    yield started
    for team in teams:
        team.close()


def passed(team, clock, seconds):
    """So much time, in steps in which the team looks after its workers."""
    for _ in range(int(seconds)):
        looked = team._looked_s
        clock.advance(1.0)
        wait_for(lambda looked=looked: team.changed() or team._looked_s > looked)


@pytest.mark.slow
def test_one_that_never_ends_does_not_hold_a_stop_up(stuck):
    """However much it has to say."""
    team = stuck("talking_worker")
    pids = list(team.pids().values())
    team.close()
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


@pytest.mark.slow
def test_one_that_shows_no_life_is_started_anew(stuck):
    """Once it has been silent for so long, and not before."""
    clock = FakeClock()
    team = stuck("silent_worker", clock=clock)
    before = set(team.pids().values())
    passed(team, clock, SILENT_S - 1)
    assert set(team.pids().values()) == before
    passed(team, clock, 2)
    wait_for(lambda: not any(alive(pid) for pid in before))

    def replaced():
        # Time goes on until both run at once: one that a busy machine is slow to start is ended, and begins once more.
        passed(team, clock, 1)
        return len(team.pids()) == 2 and not before & set(team.pids().values())

    wait_for(replaced)


@pytest.mark.slow
def test_a_stop_waits_less_for_one_that_shows_no_life(stuck):
    """It has nothing in flight that would be answered."""
    clock = FakeClock()
    team = stuck("silent_worker", clock=clock)
    pids = list(team.pids().values())
    assert not team.drain(grace_s=-2.0)
    passed(team, clock, DRAINING_SILENT_S + 1)
    assert team.drain(grace_s=60.0)
    assert not any(alive(pid) for pid in pids)


def test_a_worker_whose_event_loop_hangs_shows_no_life():
    """Its other threads would tell figures on and on, while no client gets an answer."""
    ours, theirs = (Channel(one) for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    soon = queue.SimpleQueue()
    worker = Worker(theirs, BEGIN, Epoch.made())
    telling = threading.Thread(target=worker.tell_regularly, args=(soon.put,), daemon=True)
    telling.start()
    turn = soon.get(timeout=60)
    assert select.select([ours], [], [], 0)[0] == []
    worker.tell_figures()
    assert ours.receive().message == Figures(turned=False)
    turn()
    assert ours.receive().message == Figures(turned=True)
    ours.close()
    soon.get(timeout=60)()
    telling.join(60)
    assert not telling.is_alive()
