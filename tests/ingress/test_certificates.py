"""Certificates held against real handshakes, in memory: what is offered, what is refused, what a reload changes."""

import logging
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from ingress.certificates import Certificates, certificates
from ingress.settings import IngressSettings
from tests.certificates import Pair, presented
from wire.errors import SettingsError


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def loaded(pair: Pair) -> Certificates:
    found = certificates(IngressSettings(tls_cert_file=pair.certificate, tls_key_file=pair.key))
    assert found is not None
    return found


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost"
) -> ssl.SSLObject:
    """The client's side of a handshake without a network. Raises what either side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    open_sides = [ours, theirs]
    while open_sides:
        side = open_sides.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            open_sides.append(side)
    return ours


def test_without_files_there_is_no_tls():
    assert certificates(IngressSettings()) is None


def test_a_client_that_checks_is_content(pair: Pair):
    connection = shake_hands(loaded(pair).context, pair.client())
    assert connection.version() == "TLSv1.3"
    assert presented(connection) == pair.serial


def test_nothing_follows_the_handshake(pair: Pair):
    """No session ticket: a client that reads and writes in two threads may hang on it."""
    connection = shake_hands(loaded(pair).context, pair.client())
    with pytest.raises(ssl.SSLWantReadError):
        connection.read(1)
    assert connection.session is None or not connection.session.has_ticket


@pytest.mark.parametrize("one", ["tls_cert_file", "tls_key_file"])
def test_one_file_without_the_other(pair: Pair, one: str):
    path = pair.certificate if one == "tls_cert_file" else pair.key
    with pytest.raises(SettingsError, match="one without the other"):
        certificates(IngressSettings(**{one: path}))  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["TLS_CERT_FILE", "TLS_KEY_FILE"])
def test_a_file_that_is_not_there(pair: Pair, setting: str):
    path = pair.certificate if setting == "TLS_CERT_FILE" else pair.key
    path.unlink()
    with pytest.raises(SettingsError, match=f"{setting}: {path} cannot be read: No such file"):
        loaded(pair)


@pytest.mark.parametrize("fault", ["mismatch", "no certificate", "no key", "swapped", "empty"])
def test_a_pair_that_is_none(pair: Pair, fault: str):
    certificate, key = pair.certificate.read_bytes(), pair.key.read_bytes()
    if fault == "mismatch":
        pair.issue()
        pair.certificate.write_bytes(certificate)
    elif fault == "no certificate":
        pair.certificate.write_text("hello")
    elif fault == "no key":
        pair.key.write_text("hello")
    elif fault == "swapped":
        pair.certificate.write_bytes(key)
        pair.key.write_bytes(certificate)
    else:
        pair.certificate.write_bytes(b"")
    with pytest.raises(SettingsError, match=r"TLS_CERT_FILE, TLS_KEY_FILE: .* are not a certificate"):
        loaded(pair)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(pair: Pair):
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"password")
    form = serialization.PrivateFormat.PKCS8
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    with pytest.raises(SettingsError, match="without a password"):
        loaded(pair)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(pair: Pair):
    client = pair.client()
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        shake_hands(loaded(pair).context, client)


@pytest.mark.parametrize(
    "ciphers,good", [("ECDHE+AESGCM", True), ("AES128-SHA", False), ("ECDHE+SHA", False)]
)
def test_in_tls_1_2_only_fresh_keys_and_authenticated_encryption(pair: Pair, ciphers: str, good: bool):
    client = pair.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(ciphers)
    if good:
        assert shake_hands(loaded(pair).context, client).version() == "TLSv1.2"
        return
    with pytest.raises(ssl.SSLError):
        shake_hands(loaded(pair).context, client)


@pytest.mark.parametrize("name", ["localhost", None])
def test_a_new_pair_is_taken_for_new_handshakes(
    pair: Pair, name: str | None, caplog: pytest.LogCaptureFixture
):
    """Also for clients that name no server, such as those that connect to an address."""
    found, client = loaded(pair), pair.client()
    client.check_hostname = name is not None
    first, old = shake_hands(found.context, client, name), pair.serial
    found.refresh()
    assert presented(shake_hands(found.context, client, name)) == old
    pair.issue()
    with caplog.at_level(logging.INFO):
        found.refresh()
    assert pair.serial != old
    assert presented(shake_hands(found.context, client, name)) == pair.serial
    assert presented(first) == old
    assert "Certificate reloaded" in caplog.text


def test_a_broken_new_pair_keeps_the_old_one(pair: Pair, caplog: pytest.LogCaptureFixture):
    found, old, key = loaded(pair), pair.serial, pair.key.read_bytes()
    pair.issue()
    good = pair.key.read_bytes()
    pair.key.write_bytes(key)  # half of the pair has arrived
    found.refresh()
    found.refresh()
    assert presented(shake_hands(found.context, pair.client())) == old
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "Certificate not reloaded" in record.message
    pair.key.write_bytes(good)
    found.refresh()
    assert presented(shake_hands(found.context, pair.client())) == pair.serial != old
