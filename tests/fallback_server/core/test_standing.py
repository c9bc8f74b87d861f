"""A version that was found is held again without being looked for, as long as it would be found."""

import pytest
from support.control_stand import config, serving, specific

from fallback_server.core.model_config import Shadow
from fallback_server.core.target import ModelTarget

ANY = ModelTarget(name="m")


@pytest.fixture
def serve(tmp_path):
    """Makes a server of versions 1 to 3; stopped after the test."""
    with serving(tmp_path) as make:
        yield make


def held(standing):
    """The version, held and let go; None where it is to be looked for."""
    loaded = standing.hold()
    if loaded is None:
        return None
    standing.let_go(loaded)
    return standing.servable_id.version


@pytest.mark.parametrize(
    ("target", "version"),
    [(ANY, 3), (ModelTarget(name="m", version=1), 1), (ModelTarget(name="m", label="stable"), 2)],
)
def test_it_is_who_would_be_acquired(serve, tmp_path, target, version):
    """By default, by number and by label; again and again."""
    standing = serve(config(tmp_path, labels={"stable": 2})).control.standing(target)
    assert [held(standing), held(standing)] == [version, version]


@pytest.mark.parametrize(
    "change",
    [
        lambda control, folder: control.set_label("m", "stable", 1),
        lambda control, folder: control.set_traffic("m", {1: 1, 2: 1}),
        lambda control, folder: control.rollback("m"),
        lambda control, folder: control.configure([config(folder, shadow=Shadow(version=1, share=1))]),
    ],
)
def test_another_route_ends_it(serve, tmp_path, change):
    """From the moment that a change is answered nothing is held by what was so before."""
    server = serve(config(tmp_path, labels={"stable": 3}))
    standing = server.control.standing(ANY)
    change(server.control, tmp_path)
    assert held(standing) is None


def test_another_version_ends_it(serve, tmp_path):
    """A version that comes or goes may be the one to answer; who holds one by then has it until it lets go."""
    server = serve(config(tmp_path))
    standing = server.control.standing(ANY)
    loaded = standing.hold()
    server.control.configure([config(tmp_path, policy=specific(1, 2))])
    server.poll(settle=False)
    assert server.control.wait_idle(timeout_s=30)
    assert held(standing) is None
    assert "1 requests" in next(each.note for each in server.control.states(ANY) if each.servable_id.version == 3)
    standing.let_go(loaded)
    assert held(server.control.standing(ANY)) == 2


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({"traffic": {1: 1, 2: 1}}, ANY),
        ({"shadow": Shadow(version=1, share=0.1)}, ANY),
        ({}, ModelTarget(name="m", version=0)),
        ({}, ModelTarget(name="m", version=9)),
        ({}, ModelTarget(name="m", label="absent")),
        ({}, ModelTarget(name="")),
    ],
)
def test_there_is_none_where_requests_differ_or_none_is_answered(serve, tmp_path, options, target):
    """Where the traffic is split, or shadowed; where what is asked for is refused."""
    assert serve(config(tmp_path, **options)).control.standing(target) is None
