"""A site with an own authority, and servers that speak TLS; clients by what they show."""

import datetime as dt
import ssl

import grpc
import httpx
import numpy as np
from support.fallback_process import ServerProcess
from support.worker_servers import publish

from fallback_server.pki.folder import PkiFolder
from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import encode

ROLE = (("grpc.ssl_target_name_override", "edge-fallback-server"),)
FLAGS = ("--port=0", "--no-mdns", "--file_system_poll_wait_seconds=0")
DEADLINE_S = 30


class Site:
    """An authority, the server `gpu-1` and the devices `press-7` and `drill-1`; and what is not to be trusted.

    Attributes:
        server: The server's folder.
        expired: A device's whose certificate has ended.
        foreign: A device's of another authority that has the same name.
    """

    def __init__(self, path):
        self.path = path
        self.pki = PkiFolder(path / "pki")
        self.pki.init("Plant 4")
        self.server = self.pki.issue("server", "gpu-1")
        self.press, self.drill = (self.pki.issue("device", name) for name in ("press-7", "drill-1"))
        then = dt.datetime.now(dt.UTC) - dt.timedelta(days=9)
        self.expired = PkiFolder(path / "pki", lambda: then).issue("device", "old", days=1)
        other = PkiFolder(path / "other")
        other.init("Plant 4")
        self.foreign = other.issue("device", "press-7")
        self.models = path / "models"
        for model in ("press-a", "press-b", "payroll"):
            publish(self.models, 1, 2.0, model)

    def serve(self, *flags):
        return ServerProcess(*FLAGS, f"--model_repository={self.models}", *flags)

    def serve_tls(self, *flags):
        return self.serve(f"--tls_dir={self.server}", *flags)


class Caller:
    """Calls a server over gRPC and REST, showing a certificate, a token, both or nothing.

    Args:
        server: The process.
        shows: A folder of `pki issue`.
        token: A bearer's.
        trusts: Of whose authority; None for plain text.
    """

    def __init__(self, server, *, shows=None, token=None, trusts=None):
        self.metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        if trusts is None:
            self.channel = grpc.insecure_channel(server.address)
            verify = True
        else:
            ca = (trusts / "ca.pem").read_bytes()
            key, certificate = ((shows / name).read_bytes() if shows else None for name in ("key.pem", "cert.pem"))
            credentials = grpc.ssl_channel_credentials(ca, key, certificate)
            self.channel = grpc.secure_channel(server.address, credentials, options=ROLE)
            verify = ssl.create_default_context(cadata=ca.decode())
            if shows:
                verify.load_cert_chain(shows / "cert.pem", shows / "key.pem")
        scheme = "http" if trusts is None else "https"
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.rest = httpx.Client(base_url=f"{scheme}://{server.rest}", verify=verify, headers=headers, timeout=20)

    def call(self, method, request):
        return method.bind(self.channel)(request, timeout=20, metadata=self.metadata)

    def code(self, method, request):
        """The name of the code that a call is answered with, and the text."""
        try:
            self.call(method, request)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""

    def predict(self, model="press-a"):
        return self.code(methods.PREDICT, predict_request(model))

    def rest_predict(self, model="press-a"):
        return self.rest.post(f"/v1/models/{model}:predict", json={"instances": [[1.0, 2.0, 3.0, 4.0]]})

    def close(self):
        self.channel.close()
        self.rest.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def predict_request(model):
    inputs = {"x": encode(np.float32([[1, 2, 3, 4]]))}
    return pb.PredictRequest(model_spec=pb.ModelSpec(name=model), inputs=inputs)
