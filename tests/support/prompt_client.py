"""A client whose main thread sees at once what it asked for."""

from __future__ import annotations

import threading

from support.far_servers import WAIT_S

from edge_runtime.remote.client import RemoteClient


def handed_over(client):
    """Waits until what the main thread asked for, or cancelled, has been sent, counted or freed."""
    done = threading.Event()
    client._sender.run(done.set)
    assert done.wait(WAIT_S)


class PromptClient(RemoteClient):
    """A RemoteClient whose `submit` returns when the request is under way, or waits for its turn."""

    def submit(self, request):
        """See `RemoteClient`."""
        future = super().submit(request)
        handed_over(self)
        return future
