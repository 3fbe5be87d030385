"""The vendor's keys and signatures: a new key pair, a licence, an answer to a check-in.

Nothing here looks at a clock or keeps anything; `licensing/issuer.py` does.
"""

import hashlib
import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from licensing.license import ANSWER_TYPE, AUDIENCE, LICENSE_TYPE, MIN_RSA_BITS
from wire.errors import LicenseError, SettingsError

RSA_BITS = 3072

#: What `Terms` may be signed for, in days.
MAX_DAYS = 36_600


@dataclass(frozen=True)
class Terms:
    """What a licence allows. Without `checkin_url` it is offline, and the two durations, in seconds, do not matter."""

    customer: str
    days: float
    pools: tuple[str, ...] = ("*",)
    max_sessions: int = 0
    billing: str = "flat"
    checkin_url: str | None = None
    checkin_s: float = 3600.0
    trust_s: float = 72 * 3600.0


class SigningKey:
    """A private key, and the name by which its public half is found."""

    def __init__(self, private: Ed25519PrivateKey | RSAPrivateKey) -> None:
        self._private = private
        self.algorithm = "EdDSA" if isinstance(private, Ed25519PrivateKey) else "RS256"
        public: Any = private.public_key()
        kind: Any = OKPAlgorithm if self.algorithm == "EdDSA" else RSAAlgorithm
        dumped: dict[str, str] = kind.to_jwk(public, as_dict=True)
        self._public: dict[str, str] = {
            name: dumped[name] for name in ("kty", "crv", "x", "n", "e") if name in dumped
        }
        # RFC 7638: a key's name is the hash of its required members in their order.
        required = json.dumps(dict(sorted(self._public.items())), separators=(",", ":")).encode()
        self.name = urlsafe_b64encode(hashlib.sha256(required).digest()).rstrip(b"=").decode()

    @classmethod
    def generate(cls, algorithm: str = "EdDSA") -> "SigningKey":
        if algorithm == "EdDSA":
            return cls(Ed25519PrivateKey.generate())
        if algorithm == "RS256":
            return cls(generate_private_key(65_537, RSA_BITS))
        raise SettingsError(f"no such algorithm: {algorithm}; there are EdDSA and RS256")

    @classmethod
    def from_pem(cls, pem: bytes) -> "SigningKey":
        """Raises LicenseError."""
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise LicenseError(f"the private key cannot be read: {error}") from None
        if not isinstance(private, (Ed25519PrivateKey, RSAPrivateKey)):
            raise LicenseError("the private key must be an Ed25519 or an RSA key")
        if isinstance(private, RSAPrivateKey) and private.key_size < MIN_RSA_BITS:
            raise LicenseError(
                f"an RSA key of {private.key_size} bits is too short; {MIN_RSA_BITS} are needed"
            )
        return cls(private)

    def pem(self) -> bytes:
        """The private key, unencrypted: keep the file from others."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def key_set(self) -> str:
        """The public half, as `parse_keys` reads it."""
        member = {**self._public, "kid": self.name, "alg": self.algorithm, "use": "sig"}
        return json.dumps({"keys": [member]}, indent=2) + "\n"

    def sign(self, claims: dict[str, Any], kind: str) -> str:
        return jwt.encode(
            claims, self._private, algorithm=self.algorithm, headers={"typ": kind, "kid": self.name}
        )


def mint(key: SigningKey, issuer: str, license_id: str, terms: Terms, now_s: float) -> str:
    """A licence, signed, valid from a minute ago (clocks differ). Raises SettingsError for terms without a meaning."""
    if not 0 < terms.days <= MAX_DAYS:
        raise SettingsError(f"a license is valid for more than 0 and at most {MAX_DAYS} days")
    if terms.billing not in ("flat", "usage"):
        raise SettingsError("billing is flat or usage")
    if terms.max_sessions < 0 or not terms.pools or not terms.customer:
        raise SettingsError("a license names a customer, at least one pool, and 0 or more sessions")
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": terms.customer,
        "jti": license_id,
        "iat": int(now_s),
        "nbf": int(now_s) - 60,
        "exp": int(now_s + terms.days * 86_400),
        "pools": list(terms.pools),
        "max_sessions": terms.max_sessions,
        "billing": terms.billing,
    }
    if terms.checkin_url is not None:
        online = {"checkin_url": terms.checkin_url, "checkin_s": terms.checkin_s, "trust_s": terms.trust_s}
        claims.update(online)
    return key.sign(claims, LICENSE_TYPE)


def answer(
    key: SigningKey, issuer: str, license_id: str, nonce: str, passed: bool, reason: str, now_s: float
) -> str:
    """The answer to a check-in, signed."""
    claims = {
        "iss": issuer,
        "sub": license_id,
        "nonce": nonce,
        "iat": now_s,
        "verdict": "ok" if passed else "refused",
        "reason": reason,
    }
    return key.sign(claims, ANSWER_TYPE)
