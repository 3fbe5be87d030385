"""Keys and signatures of the vendor; what they sign is read in test_license.py."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from licensing.license import parse_keys, peek, read_license
from licensing.minting import MAX_DAYS, SigningKey, Terms, mint
from wire.errors import LicenseError, SettingsError

KEYS = {algorithm: SigningKey.generate(algorithm) for algorithm in ("EdDSA", "RS256")}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_key_survives_its_file_with_its_name(algorithm: str):
    key = KEYS[algorithm]
    again = SigningKey.from_pem(key.pem())
    assert (again.name, again.algorithm) == (key.name, algorithm)
    keys = parse_keys(key.key_set())
    assert read_license(mint(again, "v", "id", Terms("Acme", 1), 100), keys, "v", 100).id == "id"


def test_names_differ_and_are_the_standard_s():
    assert len({key.name for key in KEYS.values()} | {SigningKey.generate().name}) == 3
    # the example of RFC 8037, A.3: this public key has that thumbprint
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    assert (
        SigningKey(Ed25519PrivateKey.from_private_bytes(seed)).name
        == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    )


@pytest.mark.parametrize("algorithm", KEYS)
def test_the_public_half_holds_nothing_private(algorithm: str):
    [member] = json.loads(KEYS[algorithm].key_set())["keys"]
    assert not set(member) & {"d", "p", "q", "dp", "dq", "qi", "k"}
    assert member["alg"] == algorithm


@pytest.mark.parametrize(
    "pem,reason",
    [
        (b"", "cannot be read"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be read"),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            "Ed25519 or an RSA",
        ),
        (SigningKey(generate_private_key(65_537, 1024)).pem(), "1024 bits"),  # noqa: S505 the point of it
    ],
)
def test_other_keys_are_refused(pem: bytes, reason: str):
    with pytest.raises(LicenseError, match=reason):
        SigningKey.from_pem(pem)


def test_another_algorithm_is_refused():
    with pytest.raises(SettingsError, match="HS256"):
        SigningKey.generate("HS256")


@pytest.mark.parametrize(
    "terms",
    [
        Terms("", 1),
        Terms("Acme", 0),
        Terms("Acme", MAX_DAYS + 1),
        Terms("Acme", float("nan")),
        Terms("Acme", 1, pools=()),
        Terms("Acme", 1, max_sessions=-1),
        Terms("Acme", 1, billing="free"),
    ],
)
def test_terms_without_a_meaning_are_refused(terms: Terms):
    with pytest.raises(SettingsError):
        mint(KEYS["EdDSA"], "v", "id", terms, 0)


def test_only_a_licence_that_checks_in_says_where():
    assert "checkin_url" not in peek(mint(KEYS["EdDSA"], "v", "id", Terms("Acme", 1), 0))
    online = peek(mint(KEYS["EdDSA"], "v", "id", Terms("Acme", 1, checkin_url="https://i.example"), 0))
    assert (online["checkin_url"], online["checkin_s"], online["trust_s"]) == (
        "https://i.example",
        3600,
        259_200,
    )
