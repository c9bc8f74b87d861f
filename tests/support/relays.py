"""Connections to a port of loopback that come from another of its addresses."""

import contextlib
import socket
import threading


@contextlib.contextmanager
def relayed(port, *, source):
    """A port whose connections go on to the given one, from the given address (127.0.0.2, say)."""
    sockets = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    far = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
                    sockets.extend((near, far))
                    for one, other in ((near, far), (far, near)):
                        threading.Thread(target=_pass_on, args=(one, other), name="relay", daemon=True).start()

        threading.Thread(target=accept, name="relay", daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


def _pass_on(one, other):
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
