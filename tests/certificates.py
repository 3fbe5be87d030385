"""Certificates for this machine, made for a test."""

import functools
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509


@functools.cache
def _authority() -> trustme.CA:
    return trustme.CA()


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files in `folder`; `authority` is who signed it."""

    folder: Path

    def __post_init__(self) -> None:
        _authority().cert_pem.write_to_path(str(self.authority))
        self.issue()

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"

    def issue(self) -> None:
        """Write a fresh pair in place of the old one."""
        made = _authority().issue_cert("localhost", "127.0.0.1")
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        self.key.write_bytes(made.private_key_pem.bytes())

    @property
    def serial(self) -> int:
        """Of the certificate that is in the file now."""
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).serial_number

    def client(self) -> ssl.SSLContext:
        """A client that trusts the authority, and checks."""
        return ssl.create_default_context(cafile=str(self.authority))


def presented(connection: ssl.SSLObject | ssl.SSLSocket) -> int:
    """The serial number of the certificate that the other side has shown."""
    shown = connection.getpeercert(binary_form=True)
    assert shown
    return x509.load_der_x509_certificate(shown).serial_number
