"""Encryption of recordings at rest: AES-256-GCM, with a key for each recording made of the operator's.

Whoever reads Redis, its dumps or its backups sees nothing of what was said, and cannot change a part, nor move it to
another recording, without being noticed: the id and the nonce are bound to each part. Sizes and times are not hidden.
A key for each recording (HKDF-SHA256) keeps random nonces of 96 bits far from meeting twice.
"""

import base64
import binascii
import re
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, SecretStr, field_validator

from wire.errors import EntryError
from wire.service import ServiceSettings

KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
#: What a sealed part begins with; no packed part does.
_MARK = b"\x01"
_ABOUT = b"steno recording 1 "


class Locked(EntryError):
    """What is encrypted, and cannot be read with the key that there is."""


class Box:
    """Seals and opens the parts of one recording. `key` None: it seals nothing, and opens only what is not sealed."""

    def __init__(self, key: bytes | None, session: str) -> None:
        self._about = _ABOUT + session.encode()
        self._cipher: AESGCM | None = None
        if key is not None:
            own = HKDF(SHA256(), KEY_BYTES, salt=None, info=self._about).derive(key)
            self._cipher = AESGCM(own)

    @property
    def seals(self) -> bool:
        return self._cipher is not None

    def seal(self, part: bytes) -> bytes:
        if self._cipher is None:
            return part
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = _MARK + nonce
        sealed = bytearray(len(head) + len(part) + _TAG_BYTES)
        sealed[: len(head)] = head
        # Into its place: what `encrypt` makes anew takes longer than to encrypt it.
        self._cipher.encrypt_into(nonce, part, self._about + nonce, memoryview(sealed)[len(head) :])
        return bytes(sealed)

    def open(self, part: bytes) -> bytes:
        """Raises Locked."""
        if not is_sealed(part):
            return part
        if self._cipher is None:
            raise Locked("it is encrypted, and RECORD_KEY is not set")
        nonce, sealed = part[1 : 1 + _NONCE_BYTES], part[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, sealed, self._about + nonce)
        except (InvalidTag, ValueError):
            raise Locked(
                "RECORD_KEY is not the key that it was encrypted with, or it was changed since"
            ) from None


def is_sealed(part: bytes) -> bool:
    return part.startswith(_MARK)


def parse_key(text: str) -> bytes:
    """32 bytes, as 64 hexadecimal digits or in base64. Raises ValueError, which does not show them."""
    text = text.strip()
    try:
        key = bytes.fromhex(text) if re.fullmatch("[0-9a-fA-F]{64}", text) else _from_base64(text)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(
            "should be 32 bytes in base64 or hexadecimal, such as `openssl rand -base64 32` makes"
        )
    return key


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)


class SealedSettings(ServiceSettings):
    """Settings of a process that writes or reads recordings."""

    record_key: SecretStr | None = Field(
        None,
        description="Encrypts recordings in Redis (AES-256-GCM): 32 random bytes in base64 or hexadecimal, the same "
        "for ingress, workers and replay. They are not encrypted unless it is set.",
    )

    @field_validator("record_key")
    @classmethod
    def _record_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_key(value.get_secret_value())
        return value

    @property
    def seal_key(self) -> bytes | None:
        return parse_key(self.record_key.get_secret_value()) if self.record_key else None


#: Longest that a recording may be kept.
MAX_KEEP_S = 366 * 24 * 3600


class ArchiveSettings(SealedSettings):
    """Settings of a process that begins recordings, or brings some in."""

    record_keep_s: float = Field(
        7 * 86_400.0,
        ge=1,
        le=MAX_KEEP_S,
        description="Recordings are erased so many seconds after their last write.",
    )
    record_session_bytes: int = Field(
        128 * 2**20,
        ge=2**16,
        description="Largest recording of a session, in bytes; what comes later is not recorded. A minute takes 2 MB.",
    )
