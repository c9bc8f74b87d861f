"""Servers that do not serve what they say."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack

import grpc
import pytest
from support.clock import FakeClock
from support.far_servers import LONG_S, WAIT_S, row_request
from support.model_servers import serving
from support.prompt_client import PromptClient

from edge_runtime import ServerFailed
from edge_runtime.remote.catalog import read_update
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.word import HELD_S, MAX_KEPT, SPLIT_TIMES, TIMES, Said, Word, promised
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb

AVAILABLE = 30
KEY = ("scale", None, None)


def catalog(*versions, traffic=None):
    served = [edge.Version(version=version, state=AVAILABLE) for version in versions]
    model = edge.Model(name="scale", versions=served, default_version=versions[-1], labels={"stable": versions[-1]})
    model.traffic.update(traffic or {})
    return read_update(edge.CatalogUpdate(models=[model]))


class Server:
    """Says that it has versions, the last of them the latest, and answers as another, or as none."""

    def __init__(self, says, does):
        self.says, self.does, self.asked = says, does, 0

    def predict(self, request):
        self.asked += 1
        if self.does is None:
            return grpc.StatusCode.NOT_FOUND, "there is none"
        response = pb.PredictResponse(outputs={"y": tensors.encode(tensors.decode(request.inputs["x"]))})
        response.model_spec.version.value = self.does
        return response


@pytest.fixture
def clock():
    return FakeClock(time.monotonic())


@pytest.fixture
def asking(clock):
    """Makes a client of some servers, whose `ask` has all of them say what they serve before it asks."""
    with ExitStack() as stack:

        def make(*servers):
            client = PromptClient(
                EndpointTable(lambda address: Endpoint(address, clock), clock=clock), clock=clock, timeout_s=LONG_S
            )
            stack.callback(client.close)
            says = {}
            for server in servers:
                address = stack.enter_context(serving({PREDICT: server.predict}))
                client.endpoints.add(Found(key=address, address=address))
                says[address] = server

            def ask(**fields):
                clock.advance(1.0)
                for endpoint in client.endpoints.all():
                    endpoint.told(catalog(*says[endpoint.address].says), clock())
                client.endpoints.news()
                return client.submit(row_request(start_s=clock(), **{"version": None} | fields)).result(WAIT_S).version

            return ask

        yield make


@pytest.mark.parametrize("label", [None, "stable"])
def test_who_says_that_it_has_a_newer_version_and_answers_as_an_older_loses_its_turn(asking, caplog, label):
    """After three contradictions it counts as what it does, and the log says so; by and by it is tried again."""
    liar, honest = Server([1, 9], 1), Server([1, 2], 2)
    ask = asking(liar, honest)
    caplog.set_level(logging.WARNING)
    assert [ask(label=label) for _ in range(TIMES + 5)] == [1] * TIMES + [2] * 5
    assert liar.asked == TIMES
    (said,) = [record.getMessage() for record in caplog.records if "says" in record.getMessage()]
    assert "it says that it serves version 9, and it answers as version 1" in said
    again = [ask(label=label) for _ in range(int(HELD_S) + 2)]
    assert again.count(1) == 1, "one finds out, and it is held against it at once"


def test_who_says_that_it_has_a_version_and_does_not_find_it_loses_its_turn(asking, caplog):
    """Each new catalog had it asked in vain again: after three of them it is asked no more, for a while."""
    liar = Server([3], None)
    ask = asking(liar)
    caplog.set_level(logging.WARNING)
    for _ in range(TIMES):
        with pytest.raises(ServerFailed, match="there is none"):
            ask(version=3)
    for _ in range(5):
        with pytest.raises(ServerFailed, match="not asked, it doesn't serve that"):
            ask(version=3)
    assert liar.asked == TIMES
    assert any("and it does not find it" in record.getMessage() for record in caplog.records)


def test_who_keeps_its_word_again_is_believed(asking):
    """Its label was moved while it was asked: nothing is held against it."""
    server = Server([1, 2], 1)
    ask = asking(server, Server([1], 1))
    assert [ask() for _ in range(TIMES - 1)] == [1] * (TIMES - 1)
    server.does = 2
    assert ask() == 2
    server.does = 1
    assert [ask() for _ in range(TIMES - 1)] == [1] * (TIMES - 1)
    server.does = 2
    assert ask() == 2


def did(word, times, said, *, begin_s=0.0):
    """So many contradictions, a second apart; whether each was the one."""
    return [word.did(KEY, said, 1, begin_s + at_s, begin_s + at_s) for at_s in range(times)]


def test_contradictions_count_once_for_each_time_that_it_was_asked():
    """Hundreds of answers under way while a label is moved are one."""
    word = Word()
    assert not any(word.did(KEY, Said(9), 1, 5.0, 5.0) for _ in range(100))
    assert word.does(KEY, 5.0) is None
    assert did(word, 2, Said(9), begin_s=6.0) == [False, True]
    assert word.does(KEY, 7.0) == 1
    assert word.does(KEY, 7.0 + HELD_S) is None
    word.forget()
    assert word.does(KEY, 7.0) is None


def test_where_requests_are_split_between_versions_it_takes_more():
    """That another answers is what such a server says."""
    assert did(Word(), SPLIT_TIMES, Said(9, split=True)) == [False] * (SPLIT_TIMES - 1) + [True]


def test_what_is_kept_is_bounded():
    """The first that was contradicted goes."""
    word = Word()
    for number in range(MAX_KEPT + 1):
        for at_s in range(TIMES):
            word.did(("scale", None, f"label-{number}"), Said(9), 1, float(at_s), 0.0)
    assert word.does(("scale", None, "label-0"), 0.0) is None
    assert word.does(("scale", None, f"label-{MAX_KEPT}"), 0.0) == 1


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (("scale", None, None), Said(2, split=True)),
        (("scale", None, "stable"), Said(2)),
        (("scale", None, "other"), Said(0)),
        (("scale", 1, None), Said(1)),
        (("scale", 3, None), Said(0)),
        (("other", None, None), Said(0)),
    ],
)
def test_what_a_server_has_said(key, said):
    """By version, label or neither; of what it has not said nothing follows."""
    assert promised(catalog(1, 2, traffic={1: 0.4, 2: 0.6}), key) == said
    assert promised(None, key) == Said(0)
