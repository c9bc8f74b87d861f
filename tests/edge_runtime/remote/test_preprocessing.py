import asyncio
import time

import numpy as np
import pytest
from support.grpc_stand import loaded

from edge_runtime.errors import ServerRefused
from edge_runtime.remote.client import RemoteClient
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.types import InferRequest
from fallback_server.package_info import PackageInfo

OURS, THEIRS = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def answered(address, fingerprint):
    """What a device gets that made its inputs in this way."""
    table = EndpointTable(lambda found: Endpoint(found, time.monotonic))
    table.add(Found(key="a", address=address))
    client = RemoteClient(table, clock=time.monotonic, timeout_s=20)
    now_s = time.monotonic()
    request = InferRequest(
        model="m",
        version=1,
        signature="serving_default",
        inputs={"x": np.ones((1, 2), np.float32)},
        rows=1,
        batched=True,
        start_s=now_s,
        deadline_s=now_s + 20,
        fingerprint=fingerprint,
    )
    try:
        return client.submit(request).result(30)
    finally:
        client.close()


def test_a_server_of_another_preprocessing_refuses_what_the_device_made(tmp_path):
    """Over the real client and the real server: the error has both fingerprints."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            stand.loader.result.package = PackageInfo(fingerprint="sha256:0", preprocessing_fingerprint=OURS)
            address = f"127.0.0.1:{stand.port}"
            reply = await asyncio.to_thread(answered, address, OURS)
            assert reply.outputs["y"].tolist() == [[2.0, 2.0]]
            with pytest.raises(ServerRefused) as refused:
                await asyncio.to_thread(answered, address, THEIRS)
            assert OURS in str(refused.value)
            assert THEIRS in str(refused.value)

    asyncio.run(story())
