"""Certificates on both sides, made here: who has none, or another's, does not come in, by any way; renewed ones do."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from tests.service.conftest import JSON, Running, Serve
from tests.service.test_workers import ONE, until

from prerank.errors import ConfigError
from prerank.service.settings import TlsConfig
from prerank.service.tls import certificates

pytestmark = pytest.mark.xdist_group("service")

TOKEN = "only-for-operators"


class Files:
    """A CA, a certificate of it for a server and one for a client, and those of another CA."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.ca, self.other = trustme.CA(), trustme.CA()
        self.server = self.ca.issue_cert("127.0.0.1")
        self.client, self.stranger = self.ca.issue_cert("client@here"), self.other.issue_cert("client@there")
        self.certificate, self.key, self.both = place / "server.pem", place / "server.key", place / "both.pem"
        self.ca_file, self.other_key = place / "ca.pem", place / "other.key"
        for number, blob in enumerate(self.server.cert_chain_pems):
            blob.write_to_path(str(self.certificate), append=number > 0)
        self.server.private_key_pem.write_to_path(str(self.key))
        self.server.private_key_and_cert_chain_pem.write_to_path(str(self.both))
        self.stranger.private_key_pem.write_to_path(str(self.other_key))
        self.ca.cert_pem.write_to_path(str(self.ca_file))

    def context(self, shows: trustme.LeafCert | None, trusts: trustme.CA | None = None) -> ssl.SSLContext:
        """A client's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        (trusts or self.ca).configure_trust(context)
        if shows is not None:
            shows.configure_cert(context)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls") / "files")


@pytest.fixture(scope="module")
def secured(serve: Serve, master: Path, files: Files) -> Running:
    """HTTP, gRPC and the admin API, all with mutual TLS."""
    settings = (
        f"tls.certificate={files.certificate}",
        f"tls.key={files.key}",
        f"tls.client_ca={files.ca_file}",
        "grpc_port=0",
        "admin.port=0",
        "limits.head_seconds=2",
    )
    options = [part for setting in settings for part in ("--set", setting)]
    server = serve(master, *options, admin_token=TOKEN, ready=False)
    until(lambda: ask(server.port, files.context(files.client), "/healthz/ready")[0] == 200)
    return server


def ask(port: int, context: ssl.SSLContext, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    headers = {**JSON, **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        connection.request("GET" if body is None else "POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def ready(server: Running, trusts: Files, shows: trustme.LeafCert | None) -> bool:
    """What gRPC says, over a connection of its own."""
    key = shows.private_key_pem.bytes() if shows else None
    chain = b"".join(blob.bytes() for blob in shows.cert_chain_pems) if shows else None
    credentials = grpc.ssl_channel_credentials(trusts.ca.cert_pem.bytes(), key, chain)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{server.rpc_port}", credentials, options) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        return bool(call(b"", timeout=60) == b"\x08\x01")


def test_with_a_certificate(secured: Running, files: Files) -> None:
    context = files.context(files.client)
    status, answer = ask(secured.port, context, "/v1/rank", ONE)
    assert status == 200 and answer["ids"] == ["item-0001"]
    status, answer = ask(secured.admin_port, context, "/v1/workers", token=TOKEN)
    assert status == 200 and answer["ready"] is True
    assert ask(secured.admin_port, context, "/v1/workers")[0] == 401  # a certificate is no token


def test_the_server_is_the_one_that_is_meant(secured: Running, files: Files) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(secured.port, files.context(files.client, files.other), "/healthz/live")


@pytest.mark.parametrize("who", ["nobody", "a stranger"])
def test_without_the_right_one(secured: Running, files: Files, who: str) -> None:
    context = files.context(files.stranger if who == "a stranger" else None)
    for port in (secured.port, secured.admin_port):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            ask(port, context, "/healthz/live", token=TOKEN)


def test_no_old_protocol(secured: Running, files: Files) -> None:
    context = files.context(files.client)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    for port in (secured.port, secured.admin_port):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(port, context, "/healthz/live")
    recent = files.context(files.client)
    recent.maximum_version = ssl.TLSVersion.TLSv1_2
    assert ask(secured.port, recent, "/healthz/live")[0] == 200


@pytest.mark.parametrize("sent", [b"GET /healthz/live HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""])
def test_what_is_not_tls_is_not_answered(secured: Running, sent: bytes) -> None:
    """And does not stay, even if it says nothing."""
    for port in (secured.port, secured.admin_port):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(sent)
            received = b""
            try:
                while part := connection.recv(1000):
                    received += part
            except ConnectionResetError:
                pass
            assert b"HTTP" not in received and b"live" not in received


def test_over_grpc(secured: Running, files: Files) -> None:
    assert ready(secured, files, files.client)
    for who in (None, files.stranger):
        with pytest.raises(grpc.RpcError) as failed:
            ready(secured, files, who)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"127.0.0.1:{secured.rpc_port}") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=60)


def test_the_log_has_no_fault(secured: Running) -> None:
    """Of all the strangers above; run last."""
    assert "Traceback" not in secured.log.read_text() and "fault" not in secured.log.read_text()


Config = Callable[[Files, Path], TlsConfig]
WRONG: list[tuple[Config, str]] = [
    (lambda files, _: TlsConfig(key=files.key), r"^tls\.certificate: is missing beside"),
    (lambda files, _: TlsConfig(client_ca=files.ca_file), r"^tls\.certificate: is missing beside"),
    (lambda files, nowhere: TlsConfig(certificate=nowhere, key=files.key), "no such file$"),
    (lambda files, nowhere: TlsConfig(certificate=files.certificate, key=nowhere), "no such file$"),
    (lambda files, _: TlsConfig(certificate=files.certificate), r"^tls\.certificate .*cannot be used: "),
    (lambda files, _: TlsConfig(certificate=files.key, key=files.key), "cannot be used: "),
    (lambda files, _: TlsConfig(certificate=files.certificate, key=files.other_key), "key values mismatch$"),
    (
        lambda files, nowhere: TlsConfig(certificate=files.both, client_ca=nowhere),
        "client_ca .*: No such file",
    ),
    (lambda files, _: TlsConfig(certificate=files.both, client_ca=files.key), r"^tls\.client_ca .*cannot be used: "),
]


@pytest.mark.parametrize(("config", "message"), WRONG)
def test_wrong_files(files: Files, tmp_path: Path, config: Config, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        certificates(config(files, tmp_path / "nothing"))
    assert "\n" not in str(caught.value)


def test_an_encrypted_key_is_no_question_on_the_terminal(files: Files, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    file = tmp_path / "encrypted.key"
    secret = serialization.BestAvailableEncryption(b"secret")
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    with pytest.raises(ConfigError, match=r"cannot be used: the key is encrypted; give one that is not$"):
        certificates(TlsConfig(certificate=files.certificate, key=file))


def test_good_files(files: Files) -> None:
    assert certificates(TlsConfig()) is None
    alone = certificates(TlsConfig(certificate=files.both))
    assert alone is not None and (context := alone.current().context).verify_mode == ssl.CERT_NONE
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2 and alone.current().context is context
    mutual = certificates(TlsConfig(certificate=files.certificate, key=files.key, client_ca=files.ca_file))
    assert mutual is not None and mutual.current().context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("workers", [1, 2])
def test_renewed_files_are_used_without_a_restart(serve: Serve, master: Path, tmp_path: Path, workers: int) -> None:
    """By all workers, gRPC and the admin API; a pair that does not fit is not, and connections that are open stay."""
    old, new = Files(tmp_path / "old"), Files(tmp_path / "new")
    used = [tmp_path / name for name in ("server.pem", "server.key", "ca.pem")]

    def put(*sources: Path) -> None:
        for place, source in zip(used, sources, strict=True):
            part = tmp_path / "part"
            part.write_bytes(source.read_bytes())
            part.replace(place)

    def comes_in(server: Running, files: Files) -> None:
        """Six times each, so that both workers are asked, and that the certificates are these."""
        for _ in range(6):
            assert ask(server.port, files.context(files.client), "/healthz/live")[0] == 200
            assert ready(server, files, files.client)
        assert ask(server.admin_port, files.context(files.client), "/v1/workers", token=TOKEN)[0] == 200

    put(old.certificate, old.key, old.ca_file)
    settings = (f"workers={workers}", "grpc_port=0", "admin.port=0", f"tls.certificate={used[0]}", f"tls.key={used[1]}")
    options = [part for setting in (*settings, f"tls.client_ca={used[2]}") for part in ("--set", setting)]
    server = serve(master, *options, admin_token=TOKEN, ready=False)
    until(lambda: ask(server.port, old.context(old.client), "/healthz/ready")[0] == 200)
    comes_in(server, old)
    stays = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60, context=old.context(old.client))
    stays.connect()

    used[1].write_bytes(old.other_key.read_bytes())  # as when only one of the two is there yet
    comes_in(server, old)
    said = server.log.read_text()
    assert "changed certificates are not used" in said and "key values mismatch" in said
    assert "changed certificates are used" not in said

    put(new.certificate, new.key, new.ca_file)
    comes_in(server, new)
    assert "changed certificates are used" in server.log.read_text()
    for _ in range(6):
        for port in (server.port, server.admin_port):
            with pytest.raises(ssl.SSLCertVerificationError):
                ask(port, old.context(old.client), "/healthz/live")
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                ask(port, new.context(old.client), "/healthz/live")  # the authority was changed, too
        for files, who in ((old, old.client), (new, old.client)):
            with pytest.raises(grpc.RpcError):
                ready(server, files, who)
    stays.request("GET", "/healthz/live")
    assert stays.getresponse().status == 200
    stays.close()


def test_what_cannot_be_used_is_said_once_and_tried_again_when_it_changes(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    used = tmp_path / "both.pem"
    used.write_bytes(files.both.read_bytes())
    found = certificates(TlsConfig(certificate=used))
    assert found is not None
    before = found.current()
    for content in (b"", files.both.read_bytes()[:-100], None):
        caplog.clear()
        if content is None:
            used.unlink()
        else:
            used.write_bytes(content)
        assert [found.current() is before for _ in range(3)] == [True] * 3
        assert [record.levelname for record in caplog.records] == ["ERROR"]
    used.write_bytes(files.both.read_bytes())
    assert (after := found.current()) is not before and found.current() is after
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
