"""Bare gRPC servers of Python that answer with what they get: what transports cost without anything behind them.

Run as a program, `python echo.py KIND PORT [BYTES]` is such a server: `aio`, `sync`, `native` of pygrpc-native;
`aio-streams` is one of streams, each message of which it answers. With BYTES it answers with no more than so many.
"""

from __future__ import annotations

import sys

PATH = "/bench.Echo/Call"
KINDS = ("aio", "sync", "native")


def serve_aio(port: int, most: int | None) -> None:
    """The asyncio server of grpcio."""
    import asyncio  # noqa: PLC0415  each kind imports what it measures and nothing else

    import grpc  # noqa: PLC0415

    async def echo(request: bytes, _context: object) -> bytes:
        return request if most is None else request[:most]

    async def main() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(echo)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Call": handler}),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(main())


def serve_aio_streams(port: int, most: int | None) -> None:
    """The asyncio server of grpcio, with streams."""
    import asyncio  # noqa: PLC0415  as above

    import grpc  # noqa: PLC0415

    async def echo(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while isinstance(message := await context.read(), bytes):
            await context.write(message if most is None else message[:most])

    async def main() -> None:
        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(echo)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Call": handler}),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(main())


def serve_sync(port: int, most: int | None) -> None:
    """The server of grpcio with threads."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    import grpc  # noqa: PLC0415

    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request if most is None else request[:most])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Call": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def serve_native(port: int, most: int | None) -> None:
    """The server in Rust of pygrpc-native, whose calls one thread takes in lists."""
    from pygrpc_native._native import EVENT_CALL, NativeGrpcFront  # noqa: PLC0415

    front = NativeGrpcFront(f"127.0.0.1:{port}", [(PATH, False)])
    front.start()
    while (events := front.recv_batch(64)) is not None:
        for kind, call, _method, payload, _key in events:
            if kind == EVENT_CALL:
                front.respond(call, payload if most is None else payload[:most])


if __name__ == "__main__":
    kinds = {"aio": serve_aio, "sync": serve_sync, "native": serve_native, "aio-streams": serve_aio_streams}
    kinds[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else None)
