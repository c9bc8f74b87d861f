"""A gRPC server of `edge.v1.Delivery` that sends a package as the test wants it: broken off, slowly, or wrong."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from converter.artifact import Package
from fallback_server.protocol.methods import DESCRIBE_PACKAGE, FETCH_PACKAGE
from fallback_server.protocol.proto import edge_pb2 as pb


class Sender:
    """Delivers the package of a directory, or whatever its attributes are set to.

    Attributes:
        describe: The answer to Describe, by request; a status code ends the call.
        describe_words: What is said with that code.
        send: The pieces of a file from an offset on, by request.
        break_off_after: Bytes after which a Fetch ends with `break_off_as`; None for never.
        asked: (path, offset) of each Fetch.
    """

    def __init__(self, package, port=0):
        self.package = package
        self.describe = self.truth
        self.describe_words = "the test wants it so"
        self.send = self.pieces
        self.break_off_after = None
        self.break_off_as = grpc.StatusCode.UNAVAILABLE
        self.asked = []
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
        self._server.add_generic_rpc_handlers([self._handlers()])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self):
        self._server.stop(0).wait(10)

    def truth(self, _request=None):
        package = self.package if isinstance(self.package, Package) else Package.open(self.package, verify=False)
        files = []
        own = ("manifest.json", "manifest.sha256", *(["manifest.sig"] if package.signed is not None else []))
        for path in (*own, *package.manifest.files):
            data = (package.path / path).read_bytes()
            files.append(pb.PackageFile(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
        manifest = package.manifest
        return pb.PackageDescription(model=manifest.model, version=manifest.version, digest=package.digest, files=files)

    def pieces(self, request):
        data = (self.package.path / request.path).read_bytes()[request.offset :]
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    def _handlers(self):
        def describe(request, context):
            said = self.describe(request)
            return context.abort(said, self.describe_words) if isinstance(said, grpc.StatusCode) else said

        def fetch(request, context):
            self.asked.append((request.path, request.offset))
            sent = 0
            for piece in self.send(request):
                if self.break_off_after is not None and sent >= self.break_off_after:
                    context.abort(self.break_off_as, "the test wants it so")
                yield pb.Chunk(data=piece)
                sent += len(piece)

        made = {
            DESCRIBE_PACKAGE.name: grpc.unary_unary_rpc_method_handler(describe, *_codec(DESCRIBE_PACKAGE)),
            FETCH_PACKAGE.name: grpc.unary_stream_rpc_method_handler(fetch, *_codec(FETCH_PACKAGE)),
        }
        return grpc.method_handlers_generic_handler(DESCRIBE_PACKAGE.service, made)


def _codec(method):
    return method.request.FromString, method.response.SerializeToString


@contextmanager
def sending(package, port=0):
    """A Sender for the length of a `with`."""
    sender = Sender(package, port)
    try:
        yield sender
    finally:
        sender.stop()
