"""TLS handshakes of REST: bounded as connections are, and what comes with their end is not lost."""

import socket
import ssl

import httpx
import pytest
from support.rest_stand import halves, standing
from support.tls_files import CERTIFICATE, KEY
from support.worker_servers import wait_for

from fallback_server.config import TlsFiles
from fallback_server.transport.rest.connections import ConnectionLimits
from fallback_server.transport.tls import TlsKeeper

TRUSTING = ssl.create_default_context(cadata=CERTIFICATE.decode())
BODY = {"instances": [[1.0, 2.0]]}


@pytest.fixture
def keeper():
    return TlsKeeper(TlsFiles(key_pem=KEY, certificate_pem=CERTIFICATE, rest_clients="none"))


def url(stand):
    return f"https://127.0.0.1:{stand.port}/v1/models/half:predict"


def test_requests_are_answered_over_tls(tmp_path, keeper):
    """Small ones, which come with the handshake's end, and large ones; several over one connection."""
    with standing({("half", 1): halves()}, tmp_path, tls=keeper) as stand, httpx.Client(verify=TRUSTING) as client:
        for rows in (1, 1, 20_000):
            answer = client.post(url(stand), json={"instances": [[1.0, 2.0]] * rows})
            assert answer.json() == {"predictions": [[0.5, 1.0]] * rows}
        assert client.get(url(stand)).status_code == 400


def test_a_request_that_comes_with_the_handshakes_end_is_answered(tmp_path, keeper):
    """In one packet: the server has it before it knows that TLS is spoken."""
    head = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n"
    with standing({("half", 1): halves()}, tmp_path, tls=keeper) as stand:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = TRUSTING.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with socket.create_connection(("127.0.0.1", stand.port), timeout=20) as plain:
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
                else:
                    break
            tls.write(head)
            plain.sendall(outgoing.read())  # The handshake's last message, and the request.
            answer = b""
            while b"live" not in answer:
                try:
                    answer += tls.read(65536)  # A record, of which several may have come.
                except ssl.SSLWantReadError:
                    incoming.write(plain.recv(65536))
        assert answer.startswith(b"HTTP/1.1 200")


def test_who_begins_handshakes_and_no_more_keeps_nobody_out(tmp_path, keeper):
    """The oldest makes room, as for a head that does not come; and none stays beyond the time for that."""
    limits = ConnectionLimits(connections=8, head_s=1.0)
    with standing({("half", 1): halves()}, tmp_path, tls=keeper, limits=limits) as stand:
        silent = [socket.create_connection(("127.0.0.1", stand.port), timeout=20) for _ in range(40)]
        answer = httpx.post(url(stand), json=BODY, verify=TRUSTING)
        assert answer.json() == {"predictions": [[0.5, 1.0]]}
        assert len(stand.server.connections.connections) <= 9
        wait_for(lambda: not stand.server.connections.connections)
        for each in silent:
            each.close()


def test_what_is_no_tls_is_closed_and_fills_no_log(tmp_path, keeper, caplog):
    """Plain HTTP, half a handshake, a client that trusts nobody: the server goes on."""
    with standing({("half", 1): halves()}, tmp_path, tls=keeper) as stand:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 5000):
            with socket.create_connection(("127.0.0.1", stand.port), timeout=20) as plain:
                plain.sendall(data)
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(4096):
                    pass
        with pytest.raises(httpx.HTTPError):
            httpx.post(url(stand), json=BODY)
        assert httpx.post(url(stand), json=BODY, verify=TRUSTING).status_code == 200
        wait_for(lambda: not stand.server.connections.connections)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
