"""Who is let in by TLS: real processes and handshakes, certificates that are replaced and revoked meanwhile."""

import socket
import ssl
import subprocess
import sys
import threading

import grpc
import httpx
import pytest
from support.secure_servers import DEADLINE_S, FLAGS, Caller, Site, predict_request
from support.worker_servers import wait_for
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.transport.rpc import SMALL_IN_A_ROW

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module", params=["1", "2"])
def server(site, request):
    """Of one process, and of two that share the port."""
    process = site.serve_tls(f"--workers={request.param}")
    yield process
    process.close()


def test_a_device_of_the_site_is_answered(site, server):
    """Over gRPC and REST, by the name that every server of the site has, and by its address."""
    with Caller(server, shows=site.press, trusts=site.server) as caller:
        assert caller.predict() == ("OK", "")
        assert caller.rest_predict().json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
        assert len(caller.call(methods.CATALOG_GET, edge.CatalogRequest()).models) == 3


@pytest.mark.parametrize("who", ["nobody", "expired", "foreign", "server"])
def test_others_get_no_connection_over_grpc(site, server, who):
    """Without a certificate, with one that has ended, of another authority, or that is a server's."""
    with Caller(server, shows=getattr(site, who, None), trusts=site.server) as caller:
        code, text = caller.predict()
        assert code == "UNAVAILABLE"
        assert "payroll" not in text
    assert not any("Handshake failed" in line for line in server.log)  # Anybody could fill the log with them.


@pytest.mark.parametrize("who", ["expired", "foreign", "server"])
def test_nor_over_rest(site, server, who):
    """The handshake fails, whatever is asked."""
    with Caller(server, shows=getattr(site, who), trusts=site.server) as caller, pytest.raises(httpx.HTTPError):
        caller.rest_predict()


def test_who_shows_nothing_to_rest_learns_that_the_server_lives_and_no_more(site, server):
    """401, and what to show; health is for everybody."""
    with Caller(server, trusts=site.server) as caller:
        assert caller.rest.get("/v2/health/ready").json() == {"ready": True}
        for answer in (
            caller.rest_predict(),
            caller.rest.get("/v1/models/payroll"),
            caller.rest.get("/v1/models/absent"),
            caller.rest.post("/v2/repository/index"),
            caller.rest.get("/monitoring/prometheus/metrics"),
        ):
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="fallback-server"')


def test_a_client_finds_out_a_wrong_server(site, server):
    """Who trusts another authority sends it nothing; and plain text is not understood."""
    with Caller(server, shows=site.press, trusts=site.foreign) as caller:
        assert caller.predict()[0] == "UNAVAILABLE"
        with pytest.raises(httpx.HTTPError):
            caller.rest_predict()
    with Caller(server) as caller:
        assert caller.predict()[0] == "UNAVAILABLE"


def test_a_certificate_lets_nobody_change_anything(site, server):
    """Without a rule that says so, whoever may run models may not move labels; the machine's operator may."""
    with Caller(server, shows=site.press, trusts=site.server) as caller:
        code, text = caller.code(methods.SET_LABEL, edge.SetLabelRequest(model="press-a", label="x", version=1))
        assert (code, text) == (
            "PERMISSION_DENIED",
            "certificate 'press-7' may not change (SetLabel) any model",
        )
        assert caller.rest.post("/v2/repository/models/press-a/unload").status_code == 403
    shows = (f"--tls_cert={site.press}/cert.pem", f"--tls_key={site.press}/key.pem")
    words = ("label", server.address, "press-a", "y=1", f"--tls_ca={site.server}/ca.pem", *shows)
    done = subprocess.run(
        [sys.executable, "-m", "fallback_server.cli", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_revoked_device_is_out_within_seconds(tmp_path, workers):
    """Over the connection that it has, also in the midst of a stream; and over a new one. Others notice nothing."""
    site = Site(tmp_path)
    server = site.serve_tls(f"--workers={workers}")
    try:
        with (
            Caller(server, shows=site.press, trusts=site.server) as press,
            Caller(server, shows=site.drill, trusts=site.server) as drill,
        ):
            assert press.predict() == drill.predict() == ("OK", "")
            # From then on a method was left to gRPC, which takes the request in before anybody is asked.
            assert {drill.predict() for _ in range(SMALL_IN_A_ROW)} == {("OK", "")}
            assert press.rest_predict().status_code == 200
            ended = []
            watch = press.channel.unary_stream(
                methods.CATALOG_WATCH.path,
                request_serializer=edge.CatalogRequest.SerializeToString,
                response_deserializer=edge.CatalogUpdate.FromString,
            )(edge.CatalogRequest())
            assert next(watch).models

            def follow():
                try:
                    for _ in watch:
                        pass
                except grpc.RpcError as error:
                    ended.append(error.code().name)

            following = threading.Thread(target=follow)
            following.start()
            site.pki.revoke("press-7")
            code, text = wait_for(lambda: (found := press.predict())[0] != "OK" and found)
            assert (code, "is revoked" in text) == ("UNAUTHENTICATED", True)
            following.join(DEADLINE_S)
            assert ended == ["UNAUTHENTICATED"]
            assert press.rest_predict().status_code == 401  # Over the connection that it has.
            assert drill.predict() == ("OK", "")
            metrics = drill.rest.get("/monitoring/prometheus/metrics").text
            assert 'edge_fallback_access_refused_total{reason="revoked"}' in metrics
        with Caller(server, shows=site.press, trusts=site.server) as again:
            assert again.predict()[0] == "UNAUTHENTICATED"
            sent = threading.Event()  # It never is: nothing of a request is waited for.
            half = again.channel.stream_unary(methods.PREDICT.path).future(iter(sent.wait, True), timeout=DEADLINE_S)
            assert half.code() is grpc.StatusCode.UNAUTHENTICATED
            sent.set()
            with pytest.raises(httpx.HTTPError):
                again.rest_predict()
        assert any("is revoked" in line for line in server.log)
    finally:
        server.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_certificate_is_replaced_under_load_without_a_failed_request(tmp_path, workers):
    """New connections see the new one soon; whoever is connected, or connects meanwhile, is answered."""
    site = Site(tmp_path)
    server = site.serve_tls(f"--workers={workers}")
    stop, answers = threading.Event(), ([], [])

    def stay():
        with Caller(server, shows=site.press, trusts=site.server) as caller:
            while not stop.is_set():
                answers[0].append(caller.predict())

    def come_and_go():
        while not stop.is_set():
            with Caller(server, shows=site.drill, trusts=site.server) as caller:
                answers[1].append(caller.predict())
                answers[1].append(("OK" if caller.rest_predict().status_code == 200 else "REST", ""))

    threads = [threading.Thread(target=each) for each in (stay, come_and_go)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = len(answers[1])
            made = (site.pki.issue("server", "gpu-1") / "cert.pem").read_text()
            wanted = ssl.PEM_cert_to_DER_cert(made)
            wait_for(lambda wanted=wanted: shown(server.rest, site) == wanted and shown(server.address, site) == wanted)
            wait_for(lambda before=before: len(answers[1]) > before + 6)
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert [set(each) for each in answers] == [{("OK", "")}] * 2
        assert min(map(len, answers)) > 10
    finally:
        stop.set()
        server.close()


def shown(address, site):
    """What a server shows a client at a port, DER."""
    context = ssl.create_default_context(cafile=site.server / "ca.pem")
    context.load_cert_chain(site.press / "cert.pem", site.press / "key.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return connection.getpeercert(binary_form=True)


def test_a_broken_file_leaves_the_old_in_force(tmp_path):
    """It is told once, and what mends it is taken; a list of revoked certificates that is gone lets nobody in again."""
    site = Site(tmp_path)
    site.pki.revoke("drill-1")
    server = site.serve_tls()
    try:
        whole = {name: (site.server / name).read_bytes() for name in ("cert.pem", "crl.pem")}
        (site.server / "cert.pem").write_bytes((site.press / "cert.pem").read_bytes())
        wait_for(lambda: any("don't go together" in line for line in server.log))
        with (
            Caller(server, shows=site.press, trusts=site.server) as press,
            Caller(server, shows=site.drill, trusts=site.server) as drill,
        ):
            assert press.predict() == ("OK", "")
            (site.server / "cert.pem").write_bytes(whole["cert.pem"])
            (site.server / "crl.pem").unlink()
            wait_for(lambda: any("has no crl.pem any more" in line for line in server.log))
            assert drill.predict()[0] == "UNAUTHENTICATED"
            assert press.predict() == ("OK", "")
            (site.server / "crl.pem").write_bytes(whole["crl.pem"])
            assert press.predict() == ("OK", "")
        assert sum("don't go together" in line for line in server.log) == 1
    finally:
        server.close()


def refused_start(*flags):
    done = subprocess.run(
        [sys.executable, "-m", "fallback_server.cli", *FLAGS, *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def test_beyond_this_machine_plain_text_is_refused_unless_it_is_meant(site):
    """Exit code 2, and what to do; with --insecure a warning names what is open to all."""
    models = f"--model_repository={site.models}"
    code, text = refused_start(models, "--host=0.0.0.0")
    assert code == 2
    assert "--host=0.0.0.0: gRPC and REST would speak plain text beyond this machine" in text
    assert "--tls_dir" in text
    assert "--insecure" in text
    server = site.serve("--host=0.0.0.0", "--insecure")
    try:
        wait_for(lambda: any("--insecure: gRPC and REST on 0.0.0.0 in plain text" in line for line in server.log))
    finally:
        server.close()
    server = site.serve_tls("--host=0.0.0.0")
    server.close()


def test_what_can_not_be_meant_is_refused_at_the_start(site, tmp_path):
    """Each with its file: a folder that lacks a key, a list that another has signed, two ways at once."""
    models = f"--model_repository={site.models}"
    for name, content, words in (
        ("key.pem", None, "key.pem: No such file"),
        ("key.pem", (site.press / "key.pem").read_bytes(), "don't go together"),
        ("crl.pem", (site.path / "other" / "crl.pem").read_bytes(), "not signed by the authority"),
        ("ca.pem", b"nothing", "custom_ca must be PEM"),
    ):
        folder = tmp_path / f"{name}-{words[:4]}"
        folder.mkdir()
        for path in site.server.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        code, text = refused_start(models, f"--tls_dir={folder}")
        assert (code, words in text) == (2, True), text
    code, text = refused_start(models, f"--tls_dir={site.server}", "--ssl_config_file=/x")
    assert (code, "give one of them" in text) == (2, True)
    code, text = refused_start(models, "--tls_clients=require")
    assert (code, "--tls_clients needs --tls_dir=DIR" in text) == (2, True)


def test_tensorflow_servings_own_stubs_speak_tls(site, server):
    """With a certificate and without a word of ours: by the name that stands in every server's certificate."""
    credentials = grpc.ssl_channel_credentials(
        *((site.press / name).read_bytes() for name in ("ca.pem", "key.pem", "cert.pem"))
    )
    with grpc.secure_channel(server.address, credentials) as channel:  # By its address, which stands there as well.
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        asked = predict_pb2.PredictRequest.FromString(predict_request("press-a").SerializeToString())
        assert list(stub.Predict(asked, timeout=20).outputs["y"].float_val) == [2, 4, 6, 8]
