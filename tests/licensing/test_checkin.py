"""One check-in, against the real issuer behind a server with switches: only its own signed answer counts."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from licensing.checkin import check_in
from licensing.issuer import Issuer
from licensing.license import License, parse_keys, read_license
from licensing.minting import SigningKey, Terms
from tests.vendors import FAULTS, Vendor
from wire.errors import Unreachable
from wire.outbound import ALLOWED

KEY = SigningKey.generate()
KEYS = parse_keys(KEY.key_set())


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "book", KEY)


@pytest.fixture
def vendor(issuer: Issuer) -> Iterator[Vendor]:
    with Vendor(issuer.respond) as server:
        yield server


@pytest.fixture
def license(issuer: Issuer, vendor: Vendor) -> License:
    entry = issuer.mint(Terms("Acme", 1, checkin_url=vendor.url))
    return read_license(entry.token, KEYS, "steno", entry.issued_s)


def test_the_issuer_s_word_comes_back(run, issuer, license):
    assert run(check_in(license, KEYS, 5)).passed
    issuer.revoke(license.id, "not paid")
    found = run(check_in(license, KEYS, 5))
    assert (found.passed, found.reason) == (False, "not paid")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "replay"])
def test_whatever_else_comes_back_counts_as_nothing(run, vendor, license, fault: str):
    vendor.fault = fault
    with pytest.raises(Unreachable):
        run(check_in(license, KEYS, 0.5))


def test_an_answer_is_good_for_its_own_question_only(run, vendor, license):
    assert run(check_in(license, KEYS, 5)).passed
    vendor.fault = "replay"
    with pytest.raises(Unreachable, match="another question"):
        run(check_in(license, KEYS, 5))


def test_who_signs_with_another_key_is_not_the_issuer(run, vendor, license, tmp_path):
    impostor = Issuer(tmp_path / "other", SigningKey.generate())
    vendor.respond = impostor.respond
    with pytest.raises(Unreachable, match="not the issuer's"):
        run(check_in(license, KEYS, 5))


def test_nobody_at_home(run, license, free_port):
    gone = replace(license, checkin_url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable, match="cannot connect"):
        run(check_in(gone, KEYS, 5))


@pytest.mark.parametrize("url", ["http://issuer.example", "ftp://x", "https://", "https://u:p@x"])
def test_an_address_that_is_not_safe_is_not_asked(run, license, url: str):
    with pytest.raises(Unreachable, match="cannot be used"):
        run(check_in(replace(license, checkin_url=url), KEYS, 5))


def test_a_question_carries_the_licence_and_a_nonce_and_nothing_else(
    run, vendor, license, monkeypatch, tmp_path
):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for _ in range(2):
        run(check_in(license, KEYS, 5))
    one, two = vendor.seen
    assert set(one.body) == set(ALLOWED["/v1/checkin"])
    assert one.body["license"] == license.id
    assert one.body["nonce"] != two.body["nonce"]
    assert set(one.headers) == {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
        "content-type",
        "content-length",
    }
    assert one.headers["user-agent"] == "steno"
    assert license.customer not in json.dumps(one.body)
