"""A request says by which preprocessing its inputs were made, and a version of another refuses it."""

import asyncio

import grpc
import httpx
import numpy as np
import pytest
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import code_of, loaded
from support.rest_stand import halves
from support.rest_stand import standing as rest_standing

from fallback_server.core.errors import PreconditionFailed
from fallback_server.package_info import PackageInfo, check_preprocessing
from fallback_server.protocol.methods import PREPROCESSING_METADATA
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import encode

pytestmark = pytest.mark.usefixtures("transport")

OURS, THEIRS = "sha256:" + "a" * 64, "sha256:" + "b" * 64
PACKAGE = PackageInfo(fingerprint="sha256:" + "0" * 64, preprocessing_fingerprint=OURS)
UNSAID = PackageInfo(fingerprint="sha256:" + "0" * 64, preprocessing_fingerprint="")


@pytest.mark.parametrize(
    ("said", "package", "refused"),
    [
        ("", PACKAGE, False),
        (OURS, PACKAGE, False),
        (THEIRS, PACKAGE, True),
        ("nonsense", PACKAGE, True),
        (THEIRS, UNSAID, False),
        (THEIRS, None, False),
    ],
)
def test_only_what_both_say_is_compared(said, package, refused):
    """Who says nothing is answered, and so is everybody where the version's preprocessing is not known."""
    if not refused:
        return check_preprocessing(said, package, "m/1")
    with pytest.raises(PreconditionFailed) as caught:
        check_preprocessing(said, package, "m/1")
    assert str(caught.value) == f"m/1 has the preprocessing {OURS}, the request's inputs were made by {said}"
    return None


def test_what_is_repeated_is_bounded_and_printable():
    """The caller's word goes into the text, but not all of it and not as it is."""
    with pytest.raises(PreconditionFailed) as caught:
        check_preprocessing("x\x1b[2J" * 1000, PACKAGE, "m/1")
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value)


def test_a_mismatch_is_a_failed_precondition_over_grpc(tmp_path):
    """Nothing is run, both fingerprints are told, and the version's errors count it; the right one is answered."""

    async def story():
        executor = FakeExecutor(factor=2)
        async with loaded(executor, tmp_path) as stand:
            stand.loader.result.package = PACKAGE
            asked = pb.PredictRequest(model_spec=pb.ModelSpec(name="m"))
            asked.inputs["x"].CopyFrom(encode(np.ones((1, 2), np.float32)))
            code, text = await code_of(stand.predict(asked, metadata=((PREPROCESSING_METADATA, THEIRS),)))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert OURS in text
            assert THEIRS in text
            assert executor.batches == []
            assert stand.loader.result.statistics.figures().errors == {"PreconditionFailed": 1}
            await stand.predict(asked, metadata=((PREPROCESSING_METADATA, OURS),))
            await stand.predict(asked)
            assert executor.batches == [1, 1]

    asyncio.run(story())


def test_the_header_says_the_same_over_http(tmp_path):
    """A mismatch is refused there too, with both fingerprints."""
    with rest_standing({("half", 1): halves()}, tmp_path) as stand:
        with stand.manager.acquire("half", None) as handle:
            handle.servable.package = PACKAGE
        codes = {}
        for said in (OURS, THEIRS):
            answer = httpx.post(
                f"{stand.url}/v1/models/half:predict",
                json={"instances": [[2.0, 4.0]]},
                headers={PREPROCESSING_METADATA: said},
            )
            codes[said] = answer.status_code
        assert codes == {OURS: 200, THEIRS: 400}
        assert THEIRS in answer.json()["error"]
