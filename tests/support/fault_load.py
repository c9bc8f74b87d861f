"""Load that goes on while something fails: threads that ask on and on, every request in a ledger."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from typing import Self

import grpc
import numpy as np
from support import ledger as account_of
from support.ledger import Account, Answered, Ledger, Refused

from edge_runtime import EdgeRuntimeError
from fallback_server.protocol import methods, tensors
from fallback_server.protocol.proto import serving_pb2 as pb

ALLOWED_S = 2.5
"""How much later than its deadline a request may be told on a machine that runs other things too. What hangs takes
longer: no deadline here is."""

BACK_S = 5.0
"""In which service must be back when a fault has ended: of a machine's time that is ours, see `_share`."""

PATIENT_S = (5.0, 8.0)
"""Deadlines of requests of which none may fail, for nothing but the fault could make them late."""

STUCK_S = 20.0
"""After which a thread that is still in a request is left there: the request is lost."""

TOLD = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,
}
"""What a client of the server may be told while something fails that is not the client's fault."""

Ask = Callable[[np.ndarray, float], tuple[np.ndarray, int]]
"""Given rows and the seconds until the deadline: the answer, and the version that the reply names."""


class Load:
    """Asks with some threads from `start` to `stop`, each request with a deadline that is drawn.

    Args:
        ask: What asks.
        seed: Of what is drawn.
        threads: So many at a time.
        deadlines_s: The shortest and the longest.
        version: The version that must answer; None for any.
        also: Codes and errors, by name, that may be told here too.
        pause_s: The longest wait between two requests of a thread.
    """

    def __init__(
        self,
        ask: Ask,
        seed: object,
        *,
        threads: int = 4,
        deadlines_s: tuple[float, float] = (0.2, 2.0),
        version: int | None = None,
        also: tuple[str, ...] = (),
        pause_s: float = 0.02,
    ) -> None:
        self.ledger = Ledger()
        self._ask, self._version, self._also = ask, version, also
        self._deadlines_s, self._pause_s = deadlines_s, pause_s
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed} {one}"),), daemon=True, name=f"load-{one}")
            for one in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._over.set()
        end_s = time.monotonic() + STUCK_S
        for thread in self._threads:
            thread.join(max(end_s - time.monotonic(), 0))

    def stop(self, *, quiet: bool = False) -> Account:
        """Ends the load, and says what became of it; what is not as it must be fails the test."""
        self._end()
        account = self.ledger.account(ALLOWED_S)
        if not quiet:
            print(f"{account}; at last: {self.ledger.said}")  # noqa: T201  shown where the test fails
        assert not account.faults, str(account)
        assert account.answered, str(account)
        return account

    def _run(self, draw: random.Random) -> None:
        while not self._over.is_set():
            self.one(draw.uniform(*self._deadlines_s))
            time.sleep(draw.uniform(0, self._pause_s))

    def one(self, deadline_s: float) -> bool:
        """One request; whether it was answered."""
        start_s = time.monotonic()
        number = self.ledger.ask(start_s, start_s + deadline_s, self._version)
        try:
            answer, version = self._ask(account_of.row(number), deadline_s)
        except Exception as error:  # noqa: BLE001  whatever it is, the account says so
            name, known = named(error)
            known = known or name in self._also
            self.ledger.come(number, Refused(time.monotonic(), name, known=known, said=str(error)[:1000]))
            return False
        self.ledger.come(number, Answered(time.monotonic(), account_of.read(answer), version))
        return True

    def go_on(self, count: int) -> None:
        """Until so many more have been told something, whatever it is: each is by its deadline."""
        told, end_s = self.ledger.told + count, time.monotonic() + STUCK_S
        while self.ledger.told < told:
            assert time.monotonic() < end_s, f"nothing comes any more; {self.ledger.account(ALLOWED_S)}"
            time.sleep(0.01)

    def await_answers(self, count: int = 20, within_s: float = 60.0, place: Callable[[], bool] | None = None) -> float:
        """Waits until so many requests have been answered from now on; the seconds until the first."""
        start_s = last_s = time.monotonic()
        own_s = 0.0
        while True:
            came = [one for _, one in self.ledger.since(start_s) if isinstance(one, Answered)]
            if len(came) >= count and (place is None or place()):
                return min(one.at_s for one in came) - start_s
            if own_s > within_s:
                account = self.ledger.account(ALLOWED_S)
                raise AssertionError(f"{len(came)} answers in {own_s:.1f} s; {account}; at last: {self.ledger.said}")
            time.sleep(0.02)
            if time.monotonic() - last_s > _MEASURED_EACH_S:
                share, now_s = _share(), time.monotonic()
                own_s, last_s = own_s + (now_s - last_s) * share, now_s

    def back(self, holds: Callable[[], bool] | None = None) -> float:
        """Asserts that service is back in time, as `await_answers`, and goes on without refusals."""
        waited_s = self.await_answers(10, BACK_S, holds)
        print(f"back after {waited_s:.2f} s")  # noqa: T201
        return waited_s


_MEASURED_EACH_S = 0.3

_WORK = bytes(32 * 2**20)
"""Takes longer than a processor is lent at a time: who works less is put before others, and would see no load."""


def _share() -> float:
    """How much of a processor whoever wants one gets at present, 0..1: a machine may run other things too.

    A promise of seconds is one of a machine that has nothing else to do; on one that is shared by many the start of a
    process takes many times as long, which is no fault of who starts it.
    """
    start_s, cpu_s = time.monotonic(), time.thread_time()
    hashlib.sha256(_WORK).digest()  # Without Python's lock: the load's threads do not count.
    return min((time.thread_time() - cpu_s) / max(time.monotonic() - start_s, 1e-9), 1.0)


def named(error: Exception) -> tuple[str, bool]:
    """The error's name, and whether it is one that is promised."""
    if isinstance(error, grpc.RpcError):
        return error.code().name, error.code() in TOLD and bool(error.details())
    return type(error).__name__ if isinstance(error, EdgeRuntimeError) else repr(error), isinstance(
        error, EdgeRuntimeError
    )


class OfServer:
    """Asks a server by gRPC, with a connection of its own."""

    def __init__(self, address: str, model: str = "lite", version: int | None = None, *, wait: bool = False) -> None:
        options = [
            *methods.UNLIMITED_MESSAGES,
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 5000),  # So long one attempt may take.
        ]
        self.channel = grpc.insecure_channel(address, options=options)
        self._predict = methods.PREDICT.bind(self.channel)
        self._model, self._version, self._wait = model, version, wait

    def __call__(self, rows: np.ndarray, deadline_s: float) -> tuple[np.ndarray, int]:
        request = pb.PredictRequest(inputs={"x": tensors.encode(rows)})
        request.model_spec.name = self._model
        if self._version is not None:
            request.model_spec.version.value = self._version
        reply = self._predict(request, timeout=deadline_s, wait_for_ready=self._wait)
        return tensors.decode(reply.outputs["y"]), reply.model_spec.version.value

    def close(self) -> None:
        self.channel.close()
