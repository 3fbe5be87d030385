"""A licence's text, keys and the time -> a License, or the reason why it is none. So, too, the issuer's answers.

Both are JSON Web Tokens, told apart by the header's `typ`, so that one can never pass for the other. What is checked
does not depend on what a token says of itself: the algorithms are EdDSA (Ed25519) and RS256, each key serves the one
that its kind allows, and a token names its algorithm only to be compared with that. Dates are compared with the `now`
of the caller; the library's own clock is switched off.

Claims of a licence:

    iss, aud, sub, jti      issuer; "steno"; the customer; the licence's id
    iat, nbf, exp           Unix seconds: signed at, valid from, valid until
    pools, max_sessions     names of pools, or ["*"]; 0 for as many sessions as the machines hold
    billing                 "flat" or "usage"
    checkin_url             where to ask whether the licence still stands; none: signature and dates decide alone
    checkin_s, trust_s      seconds between two check-ins; seconds that one is good for

Claims of an answer: iss; sub, the licence's id; nonce, that of the question; iat; verdict "ok" or "refused"; reason.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt

from wire.entries import ANY_POOL, Billing
from wire.errors import LicenseError, Unreachable

AUDIENCE = "steno"
LICENSE_TYPE = "steno-license+jwt"
ANSWER_TYPE = "steno-checkin+jwt"

#: A token that is longer than this is not looked into.
MAX_TOKEN_CHARS = 16_384
#: The last moment of the year 9999, in Unix seconds; then the longest interval and trust window, in seconds.
LAST_S = 253_402_300_799
LONGEST_INTERVAL_S = 30 * 86_400
LONGEST_TRUST_S = 90 * 86_400
MIN_RSA_BITS = 2048

#: Kind of key -> the only algorithm it may verify; what is left out (secrets above all) is no key for us.
_ALGORITHM_OF = {("OKP", "Ed25519"): "EdDSA", ("RSA", None): "RS256"}
_UNCHECKED: Any = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
}
_UNVERIFIED: Any = {**_UNCHECKED, "verify_signature": False}


@dataclass(frozen=True)
class License:
    """A licence that was signed by one of the keys and is valid now. Times are Unix seconds."""

    id: str
    issuer: str
    customer: str
    issued_s: float
    not_before_s: float
    expires_s: float
    pools: tuple[str, ...]
    max_sessions: int
    billing: Billing
    checkin_url: str | None
    checkin_s: float
    trust_s: float
    #: A hash of the whole text: binds what is stored about the licence to it.
    digest: bytes

    def allows(self, pool: str) -> bool:
        return pool in self.pools or ANY_POOL in self.pools


@dataclass(frozen=True)
class Verdict:
    """The issuer's signed word on a licence. `token` is the text itself, for keeping."""

    passed: bool
    reason: str
    issued_s: float
    token: str


class KeySet:
    """The public keys that are believed, by name. `parse_keys` makes one."""

    def __init__(self, keys: Mapping[str, jwt.PyJWK]) -> None:
        self._keys = dict(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def candidates(self, header: Mapping[str, Any]) -> list[jwt.PyJWK]:
        """The keys that may have signed a token with this header: of its name, if it has one, and its algorithm."""
        named = header.get("kid")
        keys = self._keys.values() if named is None else filter(None, [self._keys.get(str(named))])
        return [key for key in keys if key.algorithm_name == header.get("alg")]


def parse_keys(text: str) -> KeySet:
    """Public keys out of a JSON Web Key, or a set of them (`steno license keygen` writes one). Raises LicenseError."""
    try:
        found = json.loads(text)
        members = found.get("keys", [found])
        keys = {str(member.get("kid", number)): _key(member) for number, member in enumerate(members)}
    except LicenseError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, jwt.PyJWTError) as error:
        raise LicenseError(
            f"the keys that verify licences cannot be read ({_brief(error)}); they are a JSON Web Key Set, such as "
            "`steno license keygen` writes"
        ) from None
    if not keys:
        raise LicenseError("the set of keys that verify licences is empty")
    return KeySet(keys)


def _key(member: Mapping[str, Any]) -> jwt.PyJWK:
    algorithm = _ALGORITHM_OF.get((member.get("kty", ""), member.get("crv")))
    if algorithm is None or member.get("alg", algorithm) != algorithm:
        raise LicenseError(
            f"a key of kind {str(member.get('kty'))[:20]!r} cannot verify licences; Ed25519 and RSA keys can"
        )
    if "d" in member:
        raise LicenseError("the keys that verify licences hold a private key; give the public part only")
    key = jwt.PyJWK(dict(member), algorithm)
    if algorithm == "RS256" and key.key.key_size < MIN_RSA_BITS:
        raise LicenseError(f"an RSA key of {key.key.key_size} bits is too short; {MIN_RSA_BITS} are needed")
    return key


def read_license(text: str, keys: KeySet, issuer: str, now_s: float) -> License:
    """The licence that `text` is. Raises LicenseError, which says what is wrong and what to do about it."""
    token = text.strip()
    claims = _verified(token, keys, LICENSE_TYPE)
    license = _license(claims, token)
    if license.issuer != issuer or claims["aud"] != AUDIENCE:
        raise LicenseError(
            f"the license is foreign: {license.issuer[:80]!r} issued it for {claims['aud'][:80]!r}, and this stack "
            f"takes {AUDIENCE!r} licenses of {issuer!r} (LICENSE_ISSUER)"
        )
    if now_s < license.not_before_s:
        raise LicenseError(
            f"the license is not valid before {_date(license.not_before_s)}; ask for an earlier one, or set this "
            "machine's clock"
        )
    if now_s >= license.expires_s:
        raise LicenseError(
            f"the license has expired ({_date(license.expires_s)}); ask your vendor for a new one"
        )
    return license


def read_verdict(text: str, keys: KeySet, license: License, nonce: str | None) -> Verdict:
    """The issuer's answer about `license`; `nonce` is the question's, None for one that was kept.

    Raises Unreachable for whatever is not the issuer's answer to this question: it counts as none.
    """
    try:
        claims = _verified(text.strip(), keys, ANSWER_TYPE)
    except LicenseError as error:
        raise Unreachable(f"the answer is not the issuer's: {error}") from None
    if claims.get("iss") != license.issuer or claims.get("sub") != license.id:
        raise Unreachable("the answer is about another license")
    if nonce is not None and claims.get("nonce") != nonce:
        raise Unreachable("the answer is to another question (a repeated one, perhaps)")
    verdict, reason = claims.get("verdict"), claims.get("reason", "")
    issued_s: Any = claims.get("iat")
    if verdict not in ("ok", "refused") or not _is_time(issued_s) or not isinstance(reason, str):
        raise Unreachable("the answer cannot be understood")
    return Verdict(verdict == "ok", reason[:200], float(issued_s), text.strip())


def peek(text: str) -> dict[str, Any]:
    """The claims of a token, unverified: only ever to be shown. Raises LicenseError if there are none."""
    try:
        claims: dict[str, Any] = jwt.decode(text.strip(), options=_UNVERIFIED)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise LicenseError(f"this is not a license: {_brief(error)}") from None
    return claims


def _verified(token: str, keys: KeySet, kind: str) -> dict[str, Any]:
    """The claims of a token of this kind that one of the keys has signed. Raises LicenseError."""
    if len(token) > MAX_TOKEN_CHARS:
        raise LicenseError(f"the license is unreadable: longer than {MAX_TOKEN_CHARS} characters")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise LicenseError(
            f"the license is unreadable ({_brief(error)}); copy the file again as it was delivered"
        ) from None
    if header.get("typ") != kind:
        raise LicenseError(
            f"the license is unreadable: it says it is {str(header.get('typ'))[:40]!r}, not {kind!r}"
        )
    for key in keys.candidates(header):
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                options=_UNCHECKED,
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        return claims
    raise LicenseError(
        "the license's signature is not by a key that this stack trusts; compare LICENSE_KEYS_PATH with the key of "
        "your vendor"
    )


def _license(claims: Mapping[str, Any], token: str) -> License:
    texts: list[Any] = [claims.get(name) for name in ("jti", "iss", "sub", "aud")]
    times: list[Any] = [claims.get(name) for name in ("iat", "nbf", "exp")]
    pools: Any = claims.get("pools")
    most: Any = claims.get("max_sessions")
    billing: Any = claims.get("billing")
    url, interval_s, trust_s = claims.get("checkin_url"), claims.get("checkin_s", 0), claims.get("trust_s", 0)
    sound = (
        all(isinstance(text, str) and 0 < len(text) <= 200 for text in texts)
        and all(_is_time(time) for time in times)
        and isinstance(pools, list)
        and 0 < len(pools) <= 100
        and all(isinstance(pool, str) and 0 < len(pool) <= 100 for pool in pools)
        and _is_whole(most)
        and billing in ("flat", "usage")
        and (url is None or (isinstance(url, str) and len(url) <= 500))
        and (
            url is None
            or (_within(interval_s, 1, LONGEST_INTERVAL_S) and _within(trust_s, 1, LONGEST_TRUST_S))
        )
    )
    if not sound:
        raise LicenseError(
            "the license is malformed: a claim is missing or has no meaning; ask for a new one"
        )
    jti, iss, sub, _ = texts
    iat, nbf, exp = map(float, times)
    return License(
        id=jti,
        issuer=iss,
        customer=sub,
        issued_s=iat,
        not_before_s=nbf,
        expires_s=exp,
        pools=tuple(pools),
        max_sessions=most,
        billing=Billing[billing.upper()],
        checkin_url=url,
        checkin_s=float(interval_s) if url else 0.0,
        trust_s=float(trust_s) if url else 0.0,
        digest=hashlib.sha256(token.encode()).digest(),
    )


def _is_time(value: Any) -> bool:
    return _within(value, 0, LAST_S)


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 1_000_000_000


def _within(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:80]


def _date(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso_time(unix_s: float) -> str:
    """A time as `/v1/status` writes it (protocol 8.4): ISO 8601, microseconds, Z."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
