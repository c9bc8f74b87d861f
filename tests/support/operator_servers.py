"""Small real gRPC servers that an operator's client can ask: one of ours with a catalog, and a plain TF Serving's."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb


class OperatorServer:
    """Answers what an operator asks.

    Attributes:
        catalog: What Get and Watch give.
        reloaded: What a reload gives.
        rolled: What a rollback gives.
        refuse_with: When set, (code, text) with which every change is refused.
        asked: Every request for a change.
    """

    def __init__(self, *, ours=True, credentials=None):
        self.catalog = edge.CatalogUpdate(server_id="s-1", revision=1)
        self.states = {}
        self.reloaded = edge.ReloadResponse(models=["a", "b"])
        self.refuse_with = None
        self.asked = []
        self._changed = threading.Condition()
        self._ended = False
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._add(methods.GET_MODEL_STATUS, self._status)
        if ours:
            self._add(methods.CATALOG_GET, lambda request, context: self.catalog)
            self._add(methods.CATALOG_WATCH, self._watch)
            self._add(methods.SET_LABEL, self._change(edge.SetLabelResponse(previous=12)))
            moves = [
                edge.Move(before={12: 0.95, 13: 0.05}, after={12: 1.0}),
                edge.Move(label="stable", before={13: 1.0}, after={12: 1.0}),
            ]
            self._add(methods.SET_TRAFFIC, self._change(edge.SetTrafficResponse(move=moves[0])))
            self.rolled = edge.RollbackResponse(from_version=13, to_version=12, moves=moves)
            self._add(methods.ROLLBACK, self._change(self.rolled))
            self._add(methods.RELOAD, self._change(self.reloaded))
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def publish(self, catalog):
        with self._changed:
            self.catalog = catalog
            self._changed.notify_all()

    def end_watches(self):
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _add(self, method, answer):
        make = grpc.unary_stream_rpc_method_handler if method.streams_responses else grpc.unary_unary_rpc_method_handler
        handler = make(
            answer,
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )
        handlers = grpc.method_handlers_generic_handler(method.service, {method.name: handler})
        self._server.add_generic_rpc_handlers([handlers])

    def _status(self, request, context):
        found = self.states.get(request.model_spec.name)
        if found is None:
            name = request.model_spec.name
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        statuses = [
            pb.ModelVersionStatus(version=version, state=state, status=pb.StatusProto(error_message=error))
            for version, (state, error) in found.items()
        ]
        return pb.GetModelStatusResponse(model_version_status=statuses)

    def _watch(self, request, context):
        sent = None
        while context.is_active():
            with self._changed:
                if self.catalog is sent and not self._ended:
                    self._changed.wait(1)
                if self._ended:
                    return
                fresh = self.catalog if self.catalog is not sent else None
            if fresh is not None:
                sent = fresh
                yield fresh

    def _change(self, response):
        def answer(request, context):
            self.asked.append(request)
            if self.refuse_with is not None:
                context.abort(*self.refuse_with)
            return response

        return answer

    def close(self):
        self.end_watches()
        self._server.stop(0).wait(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
