"""A request says over HTTP what it says over gRPC: whether it comes before others."""

import threading

import httpx
import pytest
from support.rest_stand import NumpyExecutor
from support.rest_stand import standing as rest_standing


class Gated:
    """Notes the order of its runs, each of one request; none ends before it is let through the gate."""

    def __init__(self):
        self.gate, self.entered, self.order = threading.Semaphore(0), threading.Semaphore(0), []
        self.executor = NumpyExecutor(serving_default=({"x": (1,)}, {"y": (1,)}, self.run))

    def run(self, x):
        self.order.append(int(x[0]))
        self.entered.release()
        assert self.gate.acquire(timeout=30)
        return {"y": x}


@pytest.mark.parametrize(
    ("first", "second", "order"), [("low", "high", [3, 2]), ("", "low", [2, 3]), ("low", "", [3, 2])]
)
def test_the_header_says_who_comes_first(tmp_path, first, second, order):
    """While both batches that run are busy two more wait, and go by their priority."""
    model = Gated()
    with rest_standing({("m", 1): model.executor}, tmp_path) as stand:

        def ask(value, said):
            url, body = f"{stand.url}/v1/models/m:predict", {"inputs": [value]}
            httpx.post(url, json=body, headers={"x-priority": said}, timeout=30)

        callers = []
        for value, said in ((0, ""), (1, ""), (2, first), (3, second)):
            callers.append(threading.Thread(target=ask, args=(float(value), said)))
            callers[-1].start()
            if value < 2:
                assert model.entered.acquire(timeout=30)
            else:
                with stand.manager.acquire("m", None) as handle:
                    deadline = threading.Event()
                    while handle.servable.queued_rows() < value - 1:
                        assert callers[-1].is_alive()
                        deadline.wait(0.01)
        for _ in range(2):
            model.gate.release()
            assert model.entered.acquire(timeout=30)
        model.gate.release(2)
        for caller in callers:
            caller.join(30)
    assert model.order[2:] == order
