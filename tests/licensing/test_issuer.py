"""The reference issuer: its book over restarts and processes, its answers, its web face."""

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from licensing.issuer import LOCAL_CUSTOMER, Issuer, load_key, local_license, write_key
from licensing.license import parse_keys, peek, read_license, read_verdict
from licensing.minting import SigningKey, Terms
from wire.errors import LicenseError, SettingsError
from wire.web import Ask, WebServer

KEY = SigningKey.generate()
KEYS = parse_keys(KEY.key_set())
TERMS = Terms("Acme", 1, checkin_url="https://issuer.example")


@pytest.fixture
def issuer(tmp_path: Path, clock) -> Issuer:
    return Issuer(tmp_path / "book.sqlite3", KEY, clock=clock)


def said(issuer: Issuer, entry, clock, nonce: str = "n"):
    license = read_license(entry.token, KEYS, "steno", entry.issued_s)
    return read_verdict(issuer.check(entry.id, nonce), KEYS, license, nonce)


def test_what_was_minted_is_in_the_book_after_a_restart(issuer, tmp_path, clock):
    first, second = issuer.mint(TERMS), issuer.mint(Terms("Other", 2))
    assert {entry.id for entry in issuer.entries()} == {first.id, second.id}
    again = Issuer(tmp_path / "book.sqlite3", KEY, clock=clock)
    assert sorted(again.entries(), key=lambda entry: entry.id) == sorted(
        [first, second], key=lambda entry: entry.id
    )


def test_a_check_passes_and_is_remembered(issuer, clock):
    entry = issuer.mint(TERMS)
    clock.advance(60)
    found = said(issuer, entry, clock)
    assert (found.passed, found.issued_s) == (True, clock())
    assert issuer.entries()[0].last_checkin_s == clock()


def test_a_revoked_licence_is_refused_with_the_reason_until_it_is_reinstated(issuer, clock):
    entry = issuer.mint(TERMS)
    issuer.revoke(entry.id, "not paid")
    found = said(issuer, entry, clock)
    assert (found.passed, found.reason) == (False, "not paid")
    issuer.reinstate(entry.id)
    assert said(issuer, entry, clock).passed


def test_a_licence_that_has_expired_or_was_never_issued_is_refused(issuer, tmp_path, clock):
    entry = issuer.mint(TERMS)
    clock.advance(86_399)
    assert said(issuer, entry, clock).passed
    clock.advance(1)
    assert said(issuer, entry, clock).reason == "the license has expired"
    stranger = Issuer(tmp_path / "other.sqlite3", KEY, clock=clock).mint(TERMS)
    assert said(issuer, stranger, clock).reason == "there is no such license"


def test_what_is_not_in_the_book_cannot_be_revoked(issuer):
    with pytest.raises(LicenseError, match="no license 'id'"):
        issuer.revoke("id", "why")


def test_a_file_that_is_no_book(tmp_path: Path):
    (tmp_path / "book").write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(SettingsError, match="ISSUER_BOOK"):
        Issuer(tmp_path / "book", KEY)


@pytest.mark.parametrize(
    "ask,status",
    [
        (Ask("GET", "/health"), 200),
        (Ask("GET", "/v1/checkin"), 404),
        (Ask("POST", "/"), 404),
        (Ask("POST", "/v1/checkin", {}), 400),
        (Ask("POST", "/v1/checkin", {"license": 5, "nonce": "n"}), 400),
        (Ask("POST", "/v1/checkin", {"license": "x", "nonce": ""}), 400),
        (Ask("POST", "/v1/checkin", {"license": "x" * 201, "nonce": "n"}), 400),
        (Ask("POST", "/v1/checkin", {"license": "x", "nonce": "n"}), 200),
    ],
)
def test_what_is_answered(issuer, ask: Ask, status: int):
    assert issuer.respond(ask).status == status


def test_many_at_once_are_all_answered_and_all_counted(issuer):
    entries = [issuer.mint(TERMS) for _ in range(8)]
    answers: dict[str, str] = {}
    with WebServer("127.0.0.1", 0, issuer.respond) as web:

        def ask(name: str) -> None:
            body = {"license": name, "nonce": name}
            answers[name] = requests.post(f"{web.url}/v1/checkin", json=body, timeout=10).text

        threads = [threading.Thread(target=ask, args=(entry.id,)) for entry in entries]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {peek(text)["nonce"] for text in answers.values()} == {entry.id for entry in entries}
    assert all(entry.last_checkin_s is not None for entry in issuer.entries())


# ---------------------------------------------------------------------------------------------------------------------
# files


def test_a_private_key_is_for_its_owner_and_never_replaced(tmp_path: Path):
    private, public = tmp_path / "private.pem", tmp_path / "keys.json"
    write_key(KEY, private, public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert load_key(private).name == KEY.name
    assert len(parse_keys(public.read_text())) == 1
    with pytest.raises(SettingsError, match="never replaced"):
        write_key(SigningKey.generate(), private, public)
    assert load_key(private).name == KEY.name


def test_a_missing_key_says_what_to_run(tmp_path: Path):
    with pytest.raises(LicenseError, match="steno license keygen"):
        load_key(tmp_path / "none.pem")


def test_a_local_licence_is_minted_once_and_says_what_it_is(tmp_path: Path):
    file, keys = local_license(tmp_path / "license")
    text = file.read_text()
    found = read_license(text, parse_keys(keys.read_text()), "steno", peek(text)["iat"])
    assert (found.customer, found.checkin_url) == (LOCAL_CUSTOMER, None)
    assert found.allows("anything")
    assert local_license(tmp_path / "license") == (file, keys)
    assert file.read_text() == text


def test_stacks_that_start_together_share_one_local_licence(tmp_path: Path):
    folder = tmp_path / "deep" / "license"
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: local_license(folder), range(8)))
    assert len(made) == 1
    file, keys = made.pop()
    text = file.read_text()
    found = read_license(text, parse_keys(keys.read_text()), "steno", peek(text)["iat"])
    assert found.customer == LOCAL_CUSTOMER
    assert [each.name for each in folder.parent.iterdir()] == ["license"]
