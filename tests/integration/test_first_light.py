"""The whole way: SavedModel, package, device, server found by mDNS, all of them real and the server a process."""

import asyncio
import time
from collections import Counter

import numpy as np
import pytest
from support.fallback_process import ServerProcess

from converter.artifact import archive_path, install
from edge_runtime import DeadlineExceeded, Overloaded, Reply, Runtime, VersionNotAvailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 60


@pytest.fixture
def samples(digits):
    with np.load(digits / "test.npz") as test:
        return test["image"], test["labels"]


@pytest.fixture
def store(digits, tmp_path):
    """A device on which version 1 is installed, from its archive."""
    install(archive_path(digits / "packages", "digits", 1), tmp_path / "store")
    return tmp_path / "store"


def start(digits):
    return ServerProcess(
        "--model_name=digits",
        f"--model_base_path={digits / 'saved_model'}",
        "--model_version_policy=all",
        "--port=0",
        "--host=127.0.0.1",
        "--mdns",
    )


@pytest.fixture
def server(digits):
    process = start(digits)
    yield process
    process.close()


def scores(reply):
    return reply.outputs["probabilities"]


def eventually(runtime, image):
    """Version 2's answer, as soon as a server is found that gives it."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return runtime.model("digits", version=2).predict(image, deadline_ms=2000)
        except (VersionNotAvailable, DeadlineExceeded):
            assert time.monotonic() < until_s, f"not found: {runtime.servers}"


@pytest.mark.parametrize("variant", ["float32", "float16", "dynamic", "int8", "int8-float-io", "int16x8", "int4"])
def test_every_variant_answers_on_the_device_as_it_was_measured(digits, samples, variant):
    """The accuracy that the manifest states for a variant is the accuracy that the runtime reaches with it."""
    images, labels = samples
    with Runtime.open(digits / "packages", variant=variant, threads=1) as runtime:
        for version in (1, 2):
            model = runtime.model("digits", version=version)
            manifest = model.target.package.manifest
            stated = manifest.variant(variant).metrics["probabilities"]["accuracy"]
            reached = np.mean(scores(model.predict(images)).argmax(-1) == labels)
            assert reached == pytest.approx(stated, abs=1 / len(labels) + 1e-9)
            assert model.labels == tuple("0123456789")


def test_missing_version_is_answered_as_that_version(digits, samples, store, server):
    """Version 2's answer from the server is version 2's own, not version 1's, and says place, version and reason."""
    images, _ = samples
    with Runtime.open(digits / "packages", variant="float32") as both:
        own = {version: scores(both.model("digits", version=version).predict(images)) for version in (1, 2)}
    with Runtime.open(store, fallback="mdns") as runtime:
        reply = runtime.model("digits", version=2).predict(images, deadline_ms=20_000)
        assert (reply.version, reply.place, reply.reason) == (2, f"server:{server.address}", "version-missing")
        np.testing.assert_allclose(scores(reply), own[2], atol=1e-5)
        assert np.abs(scores(reply) - own[1]).max() > 0.01
        local = runtime.model("digits").predict(images)
        assert (local.version, local.place, local.reason) == (1, "device:cpu", "local")
        with pytest.raises(VersionNotAvailable, match=rf"version 9 .*Installed: 1\..*{server.address}") as caught:
            runtime.model("digits", version=9).predict(images, deadline_ms=5000)
        # By its catalog, or in its own words where that has not come yet.
        said = caught.value.asked[server.address]
        assert said == "not asked, it doesn't serve that" or "not found for request: Specific(digits, 9)" in said


def test_killed_and_restarted_server(digits, samples, store, server):
    """With the server killed the device answers on and version 2 is a named error in time; a restart is found."""
    image = samples[0][:1]
    with Runtime.open(store, fallback="mdns") as runtime:
        assert eventually(runtime, image).place == f"server:{server.address}"
        server.kill()
        server.wait()
        with pytest.raises((VersionNotAvailable, DeadlineExceeded), match=r"digits"):
            runtime.model("digits", version=2).predict(image, deadline_ms=3000)
        assert runtime.model("digits").predict(image).place == "device:cpu"
        again = start(digits)
        try:
            assert eventually(runtime, image).place == f"server:{again.address}"
        finally:
            again.close()


def test_burst_beyond_the_device_is_accounted_for(samples, store, server):
    """Of a burst beyond the device each request ends once, as its own answer or a named error; both places help."""
    images, _ = samples
    with Runtime.open(store, fallback=server.address, engines=1, threads=1, variant="float32") as runtime:
        model = runtime.model("digits")
        expected = scores(model.predict(images))
        count, rows = 2000, 50

        async def ask(i, **how):
            start = i % (len(images) - rows)
            try:
                reply = await model.predict_async(images[start : start + rows], **how)
            except (DeadlineExceeded, Overloaded) as error:
                return error
            np.testing.assert_allclose(scores(reply), expected[start : start + rows], atol=1e-4)
            return reply

        async def burst(count, **how):
            return await asyncio.gather(*(ask(i, **how) for i in range(count)))

        # The server is known, and so is what the device does, whatever else this machine is at.
        asyncio.run(burst(1, policy="only_server", deadline_ms=PATIENCE_S * 1e3))
        began_s = time.monotonic()
        asyncio.run(burst(count // 10, policy="only_device"))
        alone_ms = (time.monotonic() - began_s) * 1e3 * 10
        ends = asyncio.run(burst(count, deadline_ms=alone_ms / 3))
    assert len(ends) == count
    places = Counter(end.place.partition(":")[0] for end in ends if isinstance(end, Reply))
    assert places["device"] > 0
    assert places["server"] > 0
