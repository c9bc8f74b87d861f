"""The ASGI application: finds the route, bounds the time, and turns whatever is raised into a response."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import logging
import re

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from fallback_server.access.rules import Scope
from fallback_server.core.errors import DeadlineExceeded, RequestCancelled, ServerStopping
from fallback_server.dataplane import Verb
from fallback_server.metrics import Metrics
from fallback_server.protocol.methods import PREPROCESSING_METADATA
from fallback_server.transport.model_facts import SERVER_NAME
from fallback_server.transport.rest import openapi
from fallback_server.transport.rest.backend import Backend
from fallback_server.transport.rest.exchange import CLIENT_HEADER, PRIORITY_HEADER, Exchange, drop, json_answer
from fallback_server.transport.rest.inference_codec import HEADER_LENGTH
from fallback_server.transport.rest.json_codec import dump
from fallback_server.transport.rest.open_inference import OpenInference
from fallback_server.transport.rest.refusals import CLIENT_GONE, HttpRefused, refusal
from fallback_server.transport.rest.routes import Route, Routes
from fallback_server.transport.rest.tensorflow_serving import TensorFlowServing

_log = logging.getLogger(__name__)

_ORIGIN = re.compile("https?://[^/]*", re.IGNORECASE)
"""In front of a path, as a request to a proxy has it; servers must take that too: RFC 9112, section 3.2.2."""

_INFERENCE_SCOPES = {
    "live": None,
    "ready": None,
    "infer": Scope.PREDICT,
    "load": Scope.ADMIN,
    "unload": Scope.ADMIN,
}
"""What whoever asks must be allowed; of all others, to see. Whether the server lives everybody may know."""

_PREDICTS = {"predict": "run a signature", "classify": "label examples", "regress": "give each example a number"}
_VERSIONS = ("", "/versions/{version}", "/labels/{label}")
_ACCESS_FAULTS = (401, 403)
_RUN_FAULTS = (400, 401, 403, 404, 408, 413, 415, 429, 500, 501, 503, 504)


class RestApp:
    """Answers HTTP requests.

    Args:
        backend: What handlers work with.
        metrics: Served at `metrics_path`.
        metrics_path: None serves none.
        timeout_s: How long an answer may take once the request is there, with its body; None for ever.
    """

    def __init__(
        self,
        backend: Backend,
        metrics: Metrics,
        *,
        metrics_path: str | None,
        timeout_s: float | None,
    ) -> None:
        self._backend = backend
        self._metrics = metrics
        self._metrics_path = metrics_path
        self._timeout_s = timeout_s
        serving = TensorFlowServing(backend)
        inference = OpenInference(backend, version=package_version())
        self.routes = Routes([*_serving(serving), *_inference(inference), *self._own()])

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            response = await self._answer(Request(scope, receive))
            if self._backend.stopping:
                response.headers["connection"] = "close"
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._dispatch(request)
        except (ClientDisconnect, RequestCancelled):
            return Response(status_code=CLIENT_GONE)
        except asyncio.CancelledError:
            # Only a server that stops cancels a request: its grace is over, and the caller should hear of it.
            return refusal(ServerStopping("the server is stopping"))
        except HttpRefused as error:
            if error.status == 413:
                await drop(request)
            return refusal(error)
        except Exception as error:  # noqa: BLE001  no fault of one request may go further than its response
            return refusal(error)

    async def _dispatch(self, request: Request) -> Response:
        path = request.scope.get("raw_path", b"").decode("latin-1") or request.scope["path"]
        path = _ORIGIN.sub("", path, count=1) or "/"
        route, params = self.routes.find(request.method, path)
        exchange = Exchange(request, params, self._backend, timeout_s=self._timeout_s, verb=route.verb)
        try:
            if route.scope is not None:
                await exchange.admit(route.scope, whole=route.whole)
            return await self._in_time(route, exchange)
        except (ClientDisconnect, RequestCancelled):
            raise
        except Exception as error:
            exchange.refused(error)
            raise
        finally:
            exchange.close()

    async def _in_time(self, route: Route, exchange: Exchange) -> Response:
        if self._backend.stopping:
            await drop(exchange.request)
            raise ServerStopping("the server is stopping")
        try:
            async with asyncio.timeout(None) as bound:
                exchange.begin(bound)
                return await route.handler(exchange)
        except TimeoutError as error:
            assert self._timeout_s is not None
            raise DeadlineExceeded(f"the answer took longer than {self._timeout_s * 1e3:.0f} ms") from error

    def _own(self) -> list[Route]:
        routes = [
            Route(method="GET", path="/", handler=self._root, summary="What this is", answer="Root"),
            Route(method="GET", path="/openapi.json", handler=self._openapi, summary="This document", answer="Any"),
        ]
        if self._metrics_path is not None:
            summary = "Metrics in Prometheus' text format"
            routes.append(
                Route(
                    method="GET",
                    path=self._metrics_path,
                    handler=self._scrape,
                    summary=summary,
                    faults=_ACCESS_FAULTS,
                    scope=Scope.STATUS,
                    whole=True,  # They name every model.
                )
            )
        return routes

    async def _root(self, exchange: Exchange) -> Response:
        del exchange
        links = {"openapi": "/openapi.json", "tensorflow_serving": "/v1/models/{model}", "open_inference": "/v2"}
        if self._metrics_path is not None:
            links["metrics"] = self._metrics_path
        return json_answer(dump({"name": SERVER_NAME, "version": package_version(), "links": links}))

    async def _openapi(self, exchange: Exchange) -> Response:
        del exchange
        return json_answer(self._document)

    @functools.cached_property
    def _document(self) -> bytes:
        # Whoever reaches the port may ask for it, and it is the same for all.
        return dump(openapi.document(self.routes.routes, version=package_version()))

    async def _scrape(self, exchange: Exchange) -> Response:
        del exchange
        body, content_type = await asyncio.to_thread(self._metrics.render)
        return Response(body, headers={"content-type": content_type})


def with_cors(app: ASGIApp) -> ASGIApp:
    """The application as pages of any origin may use it."""
    return CORSMiddleware(
        app,
        allow_origins=["*"],
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=[
            "Content-Type",
            "Content-Encoding",
            "Authorization",
            HEADER_LENGTH,
            CLIENT_HEADER,
            PRIORITY_HEADER,
            PREPROCESSING_METADATA,
        ],
        expose_headers=[HEADER_LENGTH],
    )


def package_version() -> str:
    """The version that is installed; `0` out of a bare source tree."""
    try:
        return importlib.metadata.version("edge-runtime")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _serving(handlers: TensorFlowServing) -> list[Route]:
    routes = [
        Route(
            method="POST",
            path=f"/v1/models/{{model}}{version}:{verb}",
            handler=getattr(handlers, verb),
            verb=Verb[verb.upper()],
            summary=f"TensorFlow Serving: {what}",
            request=f"{verb.capitalize()}Request",
            answer=f"{verb.capitalize()}Answer",
            faults=_RUN_FAULTS,
            scope=Scope.PREDICT,
        )
        for verb, what in _PREDICTS.items()
        for version in _VERSIONS
    ]
    for version in _VERSIONS:
        path = f"/v1/models/{{model}}{version}"
        summary = "TensorFlow Serving: the states of a model's versions"
        routes += [
            Route(
                method="GET",
                path=path,
                handler=handlers.status,
                summary=summary,
                answer="Status",
                faults=(400, *_ACCESS_FAULTS, 404),
                scope=Scope.STATUS,
            ),
            Route(
                method="GET",
                path=path + "/metadata",
                handler=handlers.metadata,
                summary="TensorFlow Serving: a version's signatures",
                answer="Metadata",
                faults=(400, *_ACCESS_FAULTS, 404, 503),
                scope=Scope.STATUS,
            ),
        ]
    summary = "TensorFlow Serving: refused, as a model must be named"
    return [*routes, Route(method="GET", path="/v1/models", handler=handlers.nameless, summary=summary, faults=(400,))]


def _inference(handlers: OpenInference) -> list[Route]:
    def route(method: str, path: str, name: str, summary: str, *, request: str = "", answer: str = "") -> Route:
        faults: tuple[int, ...] = _RUN_FAULTS if name == "infer" else (400, 404, 503) if "{model}" in path else ()
        scope = _INFERENCE_SCOPES.get(name, Scope.STATUS)
        if scope is not None:
            faults = tuple(sorted({*faults, *_ACCESS_FAULTS}))
        text = f"Open Inference: {summary}"
        verb = Verb.PREDICT if name == "infer" else None
        handler = getattr(handlers, name)
        return Route(
            method=method,
            path=path,
            handler=handler,
            verb=verb,
            summary=text,
            request=request,
            answer=answer,
            faults=faults,
            scope=scope,
        )

    routes = [
        route("GET", "/v2", "server", "what this server is", answer="ServerMetadata"),
        route("GET", "/v2/health/live", "live", "whether the server runs", answer="Live"),
        route("GET", "/v2/health/ready", "ready", "whether it takes requests", answer="Ready"),
        # Before the paths of models: it is none of a model `stats`.
        route("GET", "/v2/models/stats", "statistics", "what all models have answered", answer="Statistics"),
        route("POST", "/v2/repository/index", "index", "all versions and their states", answer="Index"),
        route("POST", "/v2/repository/models/{model}/load", "load", "take a model back into service"),
        route("POST", "/v2/repository/models/{model}/unload", "unload", "take a model out of service"),
    ]
    for version in ("", "/versions/{version}"):
        path = "/v2/models/{model}" + version
        routes += [
            route("GET", path, "model", "what a model takes and gives", answer="ModelMetadata"),
            route("GET", path + "/config", "config", "how a model's requests are merged", answer="ModelConfig"),
            route("GET", path + "/stats", "statistics", "what a model has answered", answer="Statistics"),
            route("GET", path + "/ready", "model_ready", "whether a model answers", answer="ModelReady"),
            route("POST", path + "/infer", "infer", "run a model", request="InferRequest", answer="InferAnswer"),
        ]
    return routes
