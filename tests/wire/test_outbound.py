"""The one door outwards: what may pass it, and that every answer ends, in time and in size."""

import time

import pytest

from tests.vendors import FAULTS, Vendor
from wire.errors import SettingsError, Unreachable
from wire.outbound import ALLOWED, MAX_ANSWER_BYTES, check_body, check_url, post
from wire.web import Ask, Tell

BODY = {"license": "l", "nonce": "n"}
RECORD = dict.fromkeys(ALLOWED["/v1/usage"]["records"] or (), 1)


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example",
        "https://issuer.example:8443/base",
        "http://localhost:8083",
        "http://127.0.0.1",
        "http://[::1]:1",
    ],
)
def test_addresses_that_may_be_asked(url: str):
    assert check_url(url + "/") == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "issuer.example",
        "ftp://issuer.example",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@issuer.example",
        "https://issuer.example?x=1",
        "https://issuer.example#x",
    ],
)
def test_what_is_no_address_of_a_server(url: str):
    with pytest.raises(SettingsError, match="not the address of a server"):
        check_url(url, allow_http=True)


@pytest.mark.parametrize("url", ["http://issuer.example", "http://10.0.0.5:8083", "http://127.0.0.1.example"])
def test_unencrypted_only_where_the_operator_says_so(url: str):
    with pytest.raises(SettingsError, match="ALLOW_HTTP"):
        check_url(url)
    assert check_url(url, allow_http=True) == url


@pytest.mark.parametrize(
    "path,body",
    [
        ("/v1/checkin", {**BODY, "transcript": "hello"}),
        ("/v1/checkin", {"license": "l"}),
        ("/v1/checkin", {**BODY, "nonce": b"bytes"}),
        ("/v1/checkin", {**BODY, "nonce": {"a": 1}}),
        ("/v1/register", {"license": ["l"]}),
        ("/v1/usage", {"license": "l", "batch": "b", "records": [{**RECORD, "text": "hello"}]}),
        ("/v1/usage", {"license": "l", "batch": "b", "records": [{**RECORD, "session": ["hello"]}]}),
        ("/v1/usage", {"license": "l", "batch": "b", "records": [{**RECORD, "audio_ms": 1.5}]}),
    ],
)
def test_a_field_beyond_the_list_does_not_leave(run, path, body):
    with pytest.raises(ValueError, match="must"):
        check_body(path, body)
    with Vendor(lambda _: Tell(200, {})) as server:
        with pytest.raises(ValueError, match="must"):
            run(post(server.url, path, body))
        assert server.seen == []


def test_a_path_beyond_the_list_does_not_exist():
    with pytest.raises(KeyError):
        check_body("/v1/audio", {})


def test_a_post_and_its_answer(run):
    def respond(ask: Ask) -> Tell:
        return Tell(201, {"path": ask.path, "key": ask.api_key, **ask.body})

    with Vendor(respond) as server:
        answer = run(post(server.url, "/v1/checkin", BODY, "secret"))
    assert answer.status == 201
    assert answer.body == b'{"path": "/v1/checkin", "key": "secret", "license": "l", "nonce": "n"}'


@pytest.mark.parametrize("fault", ["slow", "dripping"])
def test_no_answer_takes_longer_than_allowed(run, fault: str):
    with Vendor(lambda _: Tell(200, {"a": "b" * 1000})) as server:
        server.fault = fault
        started_s = time.monotonic()
        with pytest.raises(Unreachable, match="timed out"):
            run(post(server.url, "/v1/checkin", BODY, timeout_s=0.3))
        assert time.monotonic() - started_s < 5


def test_a_huge_answer_is_not_read_to_its_end(run):
    with Vendor(lambda _: Tell(200, {})) as server:
        server.fault = "huge"
        with pytest.raises(Unreachable, match=f"more than {MAX_ANSWER_BYTES}"):
            run(post(server.url, "/v1/checkin", BODY))


def test_the_largest_answer_is_read(run):
    with Vendor(lambda _: Tell(200, "x" * MAX_ANSWER_BYTES, "text/plain")) as server:
        assert len(run(post(server.url, "/v1/checkin", BODY)).body) == MAX_ANSWER_BYTES


def test_a_redirect_is_an_answer_like_another(run):
    with Vendor(lambda _: Tell(200, {})) as server:
        server.fault = "redirect"
        assert run(post(server.url, "/v1/checkin", BODY)).status == 302
        assert len(server.seen) == 1


def test_no_reason_tells_the_key(run, free_port):
    for fault in (*FAULTS, "nobody"):
        with Vendor(lambda _: Tell(200, {})) as server:
            server.fault = fault
            url = f"http://127.0.0.1:{free_port()}" if fault == "nobody" else server.url
            try:
                run(post(url, "/v1/checkin", BODY, "hunter2", timeout_s=0.2))
            except Unreachable as error:
                assert "hunter2" not in str(error)
                assert url in str(error)


def test_no_log_tells_the_key(run, caplog):
    with caplog.at_level("DEBUG"), Vendor(lambda _: Tell(200, {})) as server:
        run(post(server.url, "/v1/checkin", BODY, "hunter2"))
    assert "hunter2" not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("http")]


def test_a_certificate_that_nobody_vouches_for(run, tmp_path):
    """A real TLS server with a certificate of its own making."""
    import datetime as dt
    import ssl
    import threading

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36_500))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Unreachable, match="certificate"):
            run(post(f"https://localhost:{listener.getsockname()[1]}", "/v1/checkin", BODY))
        thread.join()
