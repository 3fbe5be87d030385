"""Licences and answers as texts: what is taken, and that nothing else is."""

import base64
import hmac
import json
from dataclasses import replace
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licensing.license import (
    ANSWER_TYPE,
    AUDIENCE,
    LICENSE_TYPE,
    MAX_TOKEN_CHARS,
    iso_time,
    parse_keys,
    peek,
    read_license,
    read_verdict,
)
from licensing.minting import SigningKey, Terms, answer, mint
from wire.entries import Billing
from wire.errors import LicenseError, Unreachable

NOW_S = 1_800_000_000.0
ED, ED_OTHER, RSA = SigningKey.generate(), SigningKey.generate(), SigningKey.generate("RS256")
KEYS = parse_keys(ED.key_set())
TERMS = Terms("Acme", 30, ("english",), 10, "usage", "https://issuer.example", 3600, 86_400)
TOKEN = mint(ED, "vendor", "id-1", TERMS, NOW_S)


def read(token: str, now_s: float = NOW_S, issuer: str = "vendor", keys=KEYS):
    return read_license(token, keys, issuer, now_s)


def claims(**changed: Any) -> dict[str, Any]:
    return {**peek(TOKEN), **changed}


def header_of(token: str) -> dict[str, Any]:
    part = token.split(".", maxsplit=1)[0]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_everything_in_a_licence_is_read():
    found = read(TOKEN + "\n")
    assert (found.id, found.customer, found.issuer) == ("id-1", "Acme", "vendor")
    assert (found.pools, found.max_sessions, found.billing) == (("english",), 10, Billing.USAGE)
    assert (found.checkin_url, found.checkin_s, found.trust_s) == ("https://issuer.example", 3600, 86_400)
    assert (found.issued_s, found.not_before_s) == (NOW_S, NOW_S - 60)
    assert found.expires_s == NOW_S + 30 * 86_400


def test_an_offline_licence_has_no_durations():
    found = read(mint(ED, "vendor", "id", Terms("Acme", 1), NOW_S))
    assert (found.checkin_url, found.checkin_s, found.trust_s) == (None, 0, 0)


def test_pools_are_allowed_by_name_or_all_together():
    assert read(TOKEN).allows("english")
    assert not read(TOKEN).allows("multilang")
    assert read(mint(ED, "vendor", "id", Terms("Acme", 1), NOW_S)).allows("multilang")


@pytest.mark.parametrize("key", [ED, RSA])
def test_both_algorithms_serve(key: SigningKey):
    token = mint(key, "vendor", "id", TERMS, NOW_S)
    assert read(token, keys=parse_keys(key.key_set())).id == "id"


@given(st.floats(-200 * 86_400, 200 * 86_400))
def test_a_licence_is_valid_between_its_dates_only(offset_s: float):
    valid = -60 <= offset_s < 30 * 86_400
    try:
        read(TOKEN, NOW_S + offset_s)
    except LicenseError as error:
        assert not valid
        assert ("expired" if offset_s > 0 else "not valid before") in str(error)
    else:
        assert valid


@pytest.mark.parametrize("now_s", [NOW_S - 60, NOW_S + 30 * 86_400 - 0.001])
def test_the_first_and_the_last_moment(now_s: float):
    assert read(TOKEN, now_s)


def test_the_end_is_not_in_it():
    with pytest.raises(LicenseError, match="expired"):
        read(TOKEN, NOW_S + 30 * 86_400)


@given(st.data())
def test_a_changed_character_breaks_it(data: st.DataObject):
    place = data.draw(st.integers(0, len(TOKEN) - 1))
    char = data.draw(st.sampled_from("ABCxyz019-_."))
    changed = TOKEN[:place] + char + TOKEN[place + 1 :]
    try:
        found = read(changed)
    except LicenseError:
        return
    # base64 leaves bits of a last character unused: then the token says the same, and nothing was gained
    assert replace(found, digest=b"") == replace(read(TOKEN), digest=b"")


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
def test_any_text_is_refused_with_a_reason(text: str):
    with pytest.raises(LicenseError, match="license"):
        read(text)


def test_a_giant_is_refused_unread():
    with pytest.raises(LicenseError, match="longer than"):
        read("a" * (MAX_TOKEN_CHARS + 1))


# ---------------------------------------------------------------------------------------------------------------------
# forgeries


def unsigned(header: dict[str, Any]) -> str:
    parts = [json.dumps(part).encode() for part in (header, claims())]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None])
def test_no_signature_is_none(algorithm: str | None):
    with pytest.raises(LicenseError, match="license"):
        read(unsigned({"alg": algorithm, "typ": LICENSE_TYPE, "kid": ED.name}))


def test_a_public_key_is_no_secret():
    """The classic confusion: signed with HMAC, the public key as the secret."""
    public = KEYS.candidates({"kid": ED.name, "alg": "EdDSA"})[0].key.public_bytes_raw()
    header = {"alg": "HS256", "typ": LICENSE_TYPE, "kid": ED.name}
    signed, _, _ = unsigned(header).rpartition(".")
    for secret in (public, ED.key_set().encode(), base64.urlsafe_b64encode(public)):
        mac = hmac.digest(secret, signed.encode(), "sha256")
        token = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        with pytest.raises(LicenseError, match="signature"):
            read(token)


def test_a_key_serves_its_own_algorithm_only():
    for key, claimed in ((ED, "RS256"), (RSA, "EdDSA")):
        token = mint(key, "vendor", "id", TERMS, NOW_S)
        _, body, signature = token.split(".")
        header = json.dumps({**header_of(token), "alg": claimed}).encode()
        forged = ".".join((base64.urlsafe_b64encode(header).rstrip(b"=").decode(), body, signature))
        with pytest.raises(LicenseError, match="signature"):
            read(forged, keys=parse_keys(key.key_set()))


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_other_algorithms_of_the_same_key_are_not_taken(algorithm: str):
    token = jwt.encode(claims(), RSA.pem(), algorithm, headers={"typ": LICENSE_TYPE, "kid": RSA.name})
    with pytest.raises(LicenseError, match="signature"):
        read(token, keys=parse_keys(RSA.key_set()))


def test_another_key_of_the_right_name_does_not_help():
    token = jwt.encode(claims(), ED_OTHER.pem(), "EdDSA", headers={"typ": LICENSE_TYPE, "kid": ED.name})
    with pytest.raises(LicenseError, match="LICENSE_KEYS_PATH"):
        read(token)


def test_a_key_in_the_token_is_not_believed():
    public = json.loads(ED_OTHER.key_set())["keys"][0]
    token = jwt.encode(claims(), ED_OTHER.pem(), "EdDSA", headers={"typ": LICENSE_TYPE, "jwk": public})
    with pytest.raises(LicenseError, match="signature"):
        read(token)


def test_an_answer_is_no_licence_and_a_licence_no_answer():
    with pytest.raises(LicenseError, match="says it is"):
        read(ED.sign(claims(), ANSWER_TYPE))
    license = read(TOKEN)
    with pytest.raises(Unreachable, match="not the issuer's"):
        read_verdict(
            ED.sign({**claims(), "verdict": "ok", "sub": license.id}, LICENSE_TYPE), KEYS, license, None
        )


@pytest.mark.parametrize("issuer,audience", [("other", AUDIENCE), ("vendor", "another product")])
def test_a_foreign_licence_is_refused_by_name(issuer: str, audience: str):
    with pytest.raises(LicenseError, match="foreign"):
        read(ED.sign(claims(iss=issuer, aud=audience), LICENSE_TYPE))


@pytest.mark.parametrize(
    "changed",
    [
        {"jti": ""},
        {"jti": 7},
        {"sub": None},
        {"sub": "x" * 201},
        {"aud": ["steno"]},
        {"exp": "never"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": True},
        {"exp": 10**15},
        {"nbf": -1},
        {"iat": None},
        {"pools": []},
        {"pools": "english"},
        {"pools": [""]},
        {"pools": [1]},
        {"pools": ["a"] * 101},
        {"max_sessions": -1},
        {"max_sessions": True},
        {"max_sessions": 2.5},
        {"billing": "free"},
        {"billing": ["flat"]},
        {"checkin_url": 5},
        {"checkin_url": "https://" + "x" * 500},
        {"checkin_s": 0},
        {"checkin_s": 31 * 86_400},
        {"trust_s": 0.5},
        {"trust_s": 91 * 86_400},
        {"trust_s": None},
    ],
)
def test_claims_without_a_meaning_are_refused(changed: dict[str, Any]):
    with pytest.raises(LicenseError, match=r"malformed|unreadable|signature"):
        read(ED.sign(claims(**changed), LICENSE_TYPE))


@pytest.mark.parametrize("name", sorted(set(peek(TOKEN)) - {"checkin_url"}))
def test_a_missing_claim_is_refused(name: str):
    left = {key: value for key, value in claims().items() if key != name}
    with pytest.raises(LicenseError):
        read(ED.sign(left, LICENSE_TYPE))


@pytest.mark.parametrize(
    "changed", [{"trust_s": 90 * 86_400}, {"checkin_s": 30 * 86_400}, {"checkin_s": 1}, {"trust_s": 1}]
)
def test_the_widest_and_the_narrowest_durations(changed: dict[str, Any]):
    assert read(ED.sign(claims(**changed), LICENSE_TYPE))


# ---------------------------------------------------------------------------------------------------------------------
# keys


def test_several_keys_and_a_single_one():
    both = {"keys": [json.loads(key.key_set())["keys"][0] for key in (ED, RSA)]}
    keys = parse_keys(json.dumps(both))
    assert len(keys) == 2
    for key in (ED, RSA):
        assert read(mint(key, "vendor", "id", TERMS, NOW_S), keys=keys)
    assert read(TOKEN, keys=parse_keys(json.dumps(both["keys"][0])))


def test_a_key_without_a_name_is_tried():
    nameless = json.loads(ED.key_set())["keys"][0]
    del nameless["kid"]
    token = jwt.encode(claims(), ED.pem(), "EdDSA", headers={"typ": LICENSE_TYPE})
    assert read(token, keys=parse_keys(json.dumps(nameless)))


@pytest.mark.parametrize(
    "text,reason",
    [
        ("", "cannot be read"),
        ("no json", "cannot be read"),
        ("[]", "cannot be read"),
        ("7", "cannot be read"),
        ('{"keys": []}', "empty"),
        ('{"keys": [7]}', "cannot be read"),
        ('{"kty": "oct", "k": "c2VjcmV0"}', "kind 'oct'"),
        ('{"kty": "EC", "crv": "P-256", "x": "", "y": ""}', "kind 'EC'"),
        ('{"kty": "OKP", "crv": "Ed448", "x": ""}', "kind 'OKP'"),
        ('{"kty": "OKP", "crv": "Ed25519", "x": "AA"}', "cannot be read"),
        ('{"kty": "RSA", "alg": "RS512", "n": "AQAB", "e": "AQAB"}', "kind 'RSA'"),
    ],
)
def test_keys_that_cannot_verify(text: str, reason: str):
    with pytest.raises(LicenseError, match=reason):
        parse_keys(text)


def test_a_short_rsa_key_and_a_private_one():
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    short = SigningKey(generate_private_key(65_537, 1024))  # noqa: S505 the point of it
    with pytest.raises(LicenseError, match="1024 bits"):
        parse_keys(short.key_set())
    private = {**json.loads(ED.key_set())["keys"][0], "d": "AAAA"}
    with pytest.raises(LicenseError, match="private key"):
        parse_keys(json.dumps(private))


# ---------------------------------------------------------------------------------------------------------------------
# answers


LICENSE = read(TOKEN)


def test_an_answer_is_read():
    found = read_verdict(answer(ED, "vendor", "id-1", "n", True, "", NOW_S), KEYS, LICENSE, "n")
    assert (found.passed, found.reason, found.issued_s) == (True, "", NOW_S)
    found = read_verdict(answer(ED, "vendor", "id-1", "n", False, "not paid", NOW_S), KEYS, LICENSE, "n")
    assert (found.passed, found.reason) == (False, "not paid")


@pytest.mark.parametrize(
    "text,reason",
    [
        (answer(ED_OTHER, "vendor", "id-1", "n", True, "", NOW_S), "not the issuer's"),
        (answer(ED, "vendor", "id-2", "n", True, "", NOW_S), "another license"),
        (answer(ED, "other", "id-1", "n", True, "", NOW_S), "another license"),
        (answer(ED, "vendor", "id-1", "old", True, "", NOW_S), "another question"),
        (TOKEN, "not the issuer's"),
        ("", "not the issuer's"),
        ('{"verdict": "ok"}', "not the issuer's"),
    ],
)
def test_what_is_no_answer_counts_as_none(text: str, reason: str):
    with pytest.raises(Unreachable, match=reason):
        read_verdict(text, KEYS, LICENSE, "n")


@pytest.mark.parametrize("changed", [{"verdict": "yes"}, {"iat": "now"}, {"reason": 5}, {"iat": -1}])
def test_an_answer_without_a_meaning_counts_as_none(changed: dict[str, Any]):
    told = {"iss": "vendor", "sub": "id-1", "nonce": "n", "verdict": "ok", "iat": NOW_S, "reason": ""}
    with pytest.raises(Unreachable, match="understood"):
        read_verdict(ED.sign({**told, **changed}, ANSWER_TYPE), KEYS, LICENSE, "n")


def test_a_kept_answer_is_asked_for_no_nonce():
    kept = answer(ED, "vendor", "id-1", "n", True, "", NOW_S)
    assert read_verdict(kept, KEYS, LICENSE, None).token == kept


def test_times_are_written_as_the_documents_say():
    assert iso_time(1_735_732_800) == "2025-01-01T12:00:00.000000Z"
    assert iso_time(1_735_732_800.25) == "2025-01-01T12:00:00.250000Z"


def test_peek_shows_without_believing():
    assert peek(mint(ED_OTHER, "x", "id", TERMS, 0))["iss"] == "x"
    with pytest.raises(LicenseError, match="not a license"):
        peek("nonsense")
