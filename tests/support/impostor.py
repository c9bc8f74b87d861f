"""A process that announces what it is not: gRPC with any certificate, under any name; it keeps what it is sent.

Run as a script, it takes its orders as JSON, prints its port, and for each line that it reads the calls that have come.
"""

import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

READY_S = 60.0


class Impostor:
    """Started from a test.

    Args:
        instance: The mDNS instance that it announces.
        txt: The record.
        certificate, key: Files; None for plain text.
        silent: Accept connections and say nothing, in place of gRPC.
    """

    def __init__(self, instance, txt, certificate=None, key=None, *, silent=False):
        orders = {"instance": instance, "txt": txt, "silent": silent}
        orders |= {"certificate": certificate and str(certificate), "key": key and str(key)}
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(orders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        )
        killer = threading.Timer(READY_S, self.process.kill)
        killer.start()
        self.address = f"127.0.0.1:{int(self.process.stdout.readline())}"
        killer.cancel()

    def calls(self):
        """What has come: method and metadata of each call."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.kill()
        self.process.wait()


def _serve(orders, calls):
    import grpc

    class Keeper(grpc.GenericRpcHandler):
        def service(self, details):
            calls.append([details.method, [[key, str(value)] for key, value in details.invocation_metadata]])

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([Keeper()])
    if orders["certificate"]:
        pair = Path(orders["key"]).read_bytes(), Path(orders["certificate"]).read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return port, server


def _swallow(orders, calls):
    """Accepts, and says nothing; what comes is kept by its size."""
    del orders
    listener = socket.create_server(("127.0.0.1", 0))

    def hold():
        held = []
        while True:
            held.append(listener.accept()[0])

    del calls
    threading.Thread(target=hold, daemon=True).start()
    return listener.getsockname()[1], listener


def main():
    from zeroconf import IPVersion, ServiceInfo, Zeroconf

    from fallback_server.protocol.mdns import SERVICE_TYPE

    orders, calls = json.loads(sys.argv[1]), []
    port, _keep = (_swallow if orders["silent"] else _serve)(orders, calls)
    zeroconf = Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    info = ServiceInfo(
        SERVICE_TYPE,
        orders["instance"],
        port=port,
        addresses=[socket.inet_aton("127.0.0.1")],
        properties=orders["txt"],
        server=f"impostor-{port}.local.",
    )
    # It asks nobody whether the name is taken: it may well be.
    zeroconf.register_service(info, cooperating_responders=True)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(f"{json.dumps(calls)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
