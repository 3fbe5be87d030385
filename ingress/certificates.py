"""TLS of the clients' port: a certificate and its key from files, taken again when they change.

The listener's context lives as long as the node and hands each handshake on to the newest one; that one is built whole
or not at all, so that a broken pair of files never takes the place of a good one.
"""

import logging
import ssl
from pathlib import Path

from ingress.settings import IngressSettings
from ingress.watched import Watched
from wire.errors import SettingsError

logger = logging.getLogger(__name__)

#: For TLS 1.2: a fresh key for each connection, and authenticated encryption. TLS 1.3 has nothing else.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Certificates:
    """`context` is for the listener; call `refresh` every second or so. Raises SettingsError when made."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self._watched = Watched([certificate, key])
        self._newest = self._load()
        self.context = self._load()
        self.context.sni_callback = self._hand_on

    def refresh(self) -> None:
        """Take the files again if they were changed."""
        if not self._watched.changed():
            return
        try:
            self._newest = self._load()
        except SettingsError as error:
            logger.error("Certificate not reloaded, the one before stays", extra={"reason": str(error)})
        else:
            logger.info("Certificate reloaded", extra={"file": str(self._certificate)})

    def _hand_on(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called for each ClientHello, also for one that names no server."""
        connection.context = self._newest

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        # No session tickets of TLS 1.3: they follow the handshake, and a client that reads them in one thread while
        # another sends the request (websockets' threaded client, and so the official Python SDK) sometimes hangs.
        context.num_tickets = 0
        for setting, path in (("TLS_CERT_FILE", self._certificate), ("TLS_KEY_FILE", self._key)):
            try:
                path.open("rb").close()
            except OSError as error:
                raise SettingsError(f"{setting}: {path} cannot be read: {error.strerror}") from None
        try:
            # A password, though an empty one: without any, OpenSSL asks for it on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except OSError as error:  # SSLError is one; so is a file that vanishes while it is being replaced
            raise SettingsError(
                f"TLS_CERT_FILE, TLS_KEY_FILE: {self._certificate} and {self._key} are not a certificate in PEM "
                f"and its key without a password: {getattr(error, 'reason', None) or error.strerror or error}"
            ) from None
        return context


def certificates(settings: IngressSettings) -> Certificates | None:
    """What the settings ask for; None: no TLS. Raises SettingsError."""
    if settings.tls_cert_file is None and settings.tls_key_file is None:
        return None
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        raise SettingsError("TLS_CERT_FILE, TLS_KEY_FILE: one without the other; set both, or neither")
    return Certificates(settings.tls_cert_file, settings.tls_key_file)
