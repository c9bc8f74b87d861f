import asyncio
import shutil
import subprocess

import grpc
import numpy as np
import pytest
from support.grpc_stand import code_of, loaded

from fallback_server.config import TlsFiles
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import decode, encode
from fallback_server.transport.tls import TlsKeeper

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A key and a certificate for `localhost` that is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return key.read_bytes(), certificate.read_bytes()


def request():
    inputs = {"x": encode(np.float32([[1, 2]]))}
    return pb.PredictRequest(model_spec=pb.ModelSpec(name="m"), inputs=inputs)


async def predict(stand, credentials):
    target = f"127.0.0.1:{stand.port}"
    options = (("grpc.ssl_target_name_override", "localhost"),)
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        call = channel.unary_unary(PREDICT.path, response_deserializer=PREDICT.response.FromString)
        return await call(request().SerializeToString(), timeout=20)


def test_tls_is_spoken(tmp_path, pair):
    """A client that trusts the certificate is answered, plain text is not."""

    async def story():
        key, certificate = pair
        async with loaded(path=tmp_path, tls=TlsKeeper(TlsFiles(key_pem=key, certificate_pem=certificate))) as stand:
            reply = await predict(stand, grpc.ssl_channel_credentials(certificate))
            assert decode(reply.outputs["y"]).tolist() == [[2, 4]]
            assert (await code_of(stand.predict(request(), timeout=20)))[0] is grpc.StatusCode.UNAVAILABLE

    asyncio.run(story())


def test_clients_are_verified(tmp_path, pair):
    """With client_verify only who shows a certificate of the authority's is answered."""

    async def story():
        key, certificate = pair
        tls = TlsFiles(key_pem=key, certificate_pem=certificate, client_ca_pem=certificate, client_verify=True)
        async with loaded(path=tmp_path, tls=TlsKeeper(tls)) as stand:
            known = grpc.ssl_channel_credentials(certificate, private_key=key, certificate_chain=certificate)
            assert await predict(stand, known)
            code, _ = await code_of(predict(stand, grpc.ssl_channel_credentials(certificate)))
            assert code is grpc.StatusCode.UNAVAILABLE

    asyncio.run(story())
