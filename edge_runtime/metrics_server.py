"""The HTTP server behind `edge_runtime.metrics`: loaded when there is something to serve."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import Any

REQUEST_LIMIT_S = 2.0
"""A scraper sends its few lines at once, and reads the answer; whoever takes longer is cut off."""

MAX_CONNECTIONS = 4
"""At once; one more, and the oldest is cut off. There are one or two scrapers, and whoever else reaches the port."""

_CLOSE_LIMIT_S = 0.4
"""For what is being answered when the server is closed, and again for what was cut off then."""

_log = logging.getLogger(__name__)

Answer = Callable[[str], tuple[int, str, bytes]]
"""For a path the status, the content type and the body."""


class Server(TCPServer):
    """Answers each connection on a thread of its own, for so long, and so many at once.

    Not http.server's own: that asks the name service who it is, which can take seconds.
    """

    allow_reuse_address = True

    def __init__(self, host: str, port: int, answer: Answer, *, v6: bool) -> None:
        """Binds the port.

        Raises:
            OSError: it is taken, or the address is not this machine's.
        """
        self.address_family = socket.AF_INET6 if v6 else socket.AF_INET
        self._lock = threading.Lock()
        self._open: dict[Any, tuple[threading.Thread, float]] = {}
        super().__init__((host, port), _handler(answer))

    def process_request(self, request: Any, client_address: Any) -> None:
        """On a thread, in the place of the oldest where there are too many."""
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="edge-metrics-scrape", daemon=True
        )
        with self._lock:
            oldest = list(self._open)[: max(len(self._open) + 1 - MAX_CONNECTIONS, 0)]
            self._open[request] = (thread, time.monotonic())
        for one in oldest:
            _cut_off(one)
        try:
            thread.start()
        except RuntimeError:  # There can be no more threads.
            self._forget(request)
            raise

    def service_actions(self) -> None:
        """Several times a second: whoever takes too long is cut off."""
        begun_s = time.monotonic() - REQUEST_LIMIT_S
        with self._lock:
            late = [request for request, (_, since_s) in self._open.items() if since_s < begun_s]
        for request in late:
            _cut_off(request)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  socketserver's
        """A scraper that went away: nobody's trouble but its own."""
        _log.debug("metrics: a scrape from %s broke off", client_address, exc_info=True)

    def finish(self) -> None:
        """Frees the port; then waits for what is being answered, and cuts off whoever takes long."""
        self.server_close()
        self._join()
        with self._lock:
            silent = list(self._open)
        for request in silent:
            _cut_off(request)
        self._join()

    def _join(self) -> None:
        end_s = time.monotonic() + _CLOSE_LIMIT_S
        with self._lock:
            threads = [thread for thread, _ in self._open.values()]
        for thread in threads:
            thread.join(max(end_s - time.monotonic(), 0.0))

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001  as socketserver does: told, and no other scraper's trouble
            self.handle_error(request, client_address)
        finally:
            self._forget(request)
            self.shutdown_request(request)

    def _forget(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)


def _cut_off(request: Any) -> None:
    """Ends the connection; whoever waits for it on another thread goes on."""
    with contextlib.suppress(OSError):  # It has ended by itself.
        request.shutdown(socket.SHUT_RDWR)


def _handler(answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_LIMIT_S

        def do_GET(self) -> None:
            status, content_type, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  http.server's name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  likewise
            _log.debug("metrics: " + format, *args)

    return Handler
