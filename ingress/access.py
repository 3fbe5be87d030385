"""The keys that settings name, read at the start and again when their file changes.

A new file that cannot be read, or has a fault in it, changes nothing: the keys of before stay good, and the log says
which line is to blame. Sessions that run go on whatever becomes of their key.
"""

import logging
import secrets
from pathlib import Path

from ingress.credentials import Credentials, Key, KeysError, collect, parse_file, parse_list
from ingress.settings import IngressSettings
from ingress.tokens import MIN_SECRET_BYTES
from ingress.watched import Watched
from wire.errors import SettingsError

logger = logging.getLogger(__name__)

#: Largest file of keys.
MAX_FILE_BYTES = 4 * 2**20


class Access:
    """Holds `credentials`, the newest; call `refresh` every second or so. Raises SettingsError when made."""

    def __init__(self, settings: IngressSettings) -> None:
        secret = settings.token_secret
        self._secret = secret.get_secret_value().encode() if secret else secrets.token_bytes(MIN_SECRET_BYTES)
        self._sessions = settings.api_key_sessions
        self._file = settings.api_keys_file
        self._watched = Watched([self._file] if self._file else [])
        try:
            listed = settings.api_keys.get_secret_value() if settings.api_keys else ""
            self._listed = parse_list(listed)
            if settings.api_keys and not self._file:
                collect(self._listed)
        except KeysError as error:
            raise SettingsError(f"API_KEYS: {error}") from None
        try:
            self.credentials = self._load()
        except KeysError as error:
            raise SettingsError(f"API_KEYS_FILE: {error}") from None

    def refresh(self) -> None:
        """Read the file again if it was changed."""
        if self._file is None or not self._watched.changed():
            return
        try:
            self.credentials = self._load()
        except KeysError as error:
            logger.error(
                "API keys not reloaded, those of before stay good",
                extra={"file": str(self._file), "reason": str(error)},
            )
        else:
            logger.info("API keys reloaded", extra={"file": str(self._file)})

    def _load(self) -> Credentials:
        keys: tuple[Key, ...] | None = None
        if self._file is not None:
            keys = collect(self._listed, parse_file(_read(self._file)))
        elif self._listed:
            keys = collect(self._listed)
        return Credentials(keys, self._secret, self._sessions)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise KeysError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise KeysError(f"{path} is not text (UTF-8)") from None
