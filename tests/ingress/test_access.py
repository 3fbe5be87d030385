"""Keys from settings and from a file that changes while the node runs."""

import logging
from pathlib import Path
from typing import Any

import pytest

from ingress.access import MAX_FILE_BYTES, Access
from ingress.settings import IngressSettings
from ingress.tokens import TokenRequest
from wire.errors import ClientError, SettingsError

NOW_S = 1_000_000.0
MINUTE = TokenRequest(expires_in_seconds=60)
INVALID = "Unauthorized Connection: Invalid API key"


def access(**settings: Any) -> Access:
    return Access(IngressSettings(**settings))


def name(found: Access, presented: str) -> str:
    """The name of the key that gets in, or why it does not."""
    try:
        return found.credentials.grant(presented, NOW_S).name
    except ClientError as error:
        return error.text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("alpha name=one\nbeta sessions=3\n")
    return path


def test_without_keys_the_door_is_open():
    assert name(access(), "anything") == ""


def test_keys_of_the_list_and_of_the_file_are_good(file: Path):
    found = access(api_keys="gamma", api_keys_file=file, api_key_sessions=5)
    assert [name(found, key) for key in ("alpha", "beta", "gamma")] == ["one", "line 2", "key 1"]
    assert name(found, "self-hosted") == INVALID
    assert [found.credentials.grant(key, NOW_S).sessions for key in ("alpha", "beta", "gamma")] == [5, 3, 5]


@pytest.mark.parametrize("keys,fault", [("a b", "API_KEYS: key 1: "), (" , ", "API_KEYS: there is no key")])
def test_a_list_that_cannot_be_read(keys: str, fault: str):
    with pytest.raises(SettingsError, match=fault):
        access(api_keys=keys)


@pytest.mark.parametrize(
    "content,fault",
    [
        (b"", "no key"),
        (b"one\ntwo words\n", "line 2: "),
        (b"\xff\xfe", "not text"),
        (b"gamma", "line 1 is the same key as key 1"),
        (b"x" * (MAX_FILE_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_cannot_be_read(file: Path, content: bytes, fault: str):
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"^API_KEYS_FILE: .*{fault}") as error:
        access(api_keys="gamma" if b"gamma" in content else None, api_keys_file=file)
    assert "words" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"API_KEYS_FILE: .*missing cannot be read: No such file"):
        access(api_keys_file=tmp_path / "missing")


def test_a_file_that_begins_with_a_byte_order_mark(file: Path):
    file.write_text("alpha", encoding="utf-8-sig")
    assert name(access(api_keys_file=file), "alpha") == "line 1"


def test_a_file_that_changes(file: Path, caplog: pytest.LogCaptureFixture):
    found = access(api_keys_file=file)
    before = found.credentials
    found.refresh()
    assert found.credentials is before, "nothing has changed"
    token = before.mint("alpha", MINUTE, NOW_S)
    file.write_text("alpha name=renamed\ndelta\n")
    with caplog.at_level(logging.INFO):
        found.refresh()
    assert [name(found, key) for key in ("alpha", "beta", "delta")] == ["renamed", INVALID, "line 2"]
    assert name(found, token) == "renamed", "tokens stay good"
    assert "reloaded" in caplog.text
    assert "delta" not in caplog.text


@pytest.mark.parametrize("fault", ["alpha\nsecret words", "", None])
def test_a_broken_new_file_changes_nothing(file: Path, fault: str | None, caplog: pytest.LogCaptureFixture):
    found = access(api_keys_file=file)
    if fault is None:
        file.unlink()
    else:
        file.write_text(fault)
    found.refresh()
    found.refresh()
    assert name(found, "beta") == "line 2"
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    reason = record.reason  # type: ignore[attr-defined]
    assert ("line 2" if fault else "no key" if fault == "" else "cannot be read") in reason
    assert "secret" not in str(vars(record))
    file.write_text("delta\n")
    found.refresh()
    assert name(found, "delta") == "line 1", "mended"


def test_the_secret_of_tokens_is_the_operators_or_one_of_our_own():
    shared = {"token_secret": "s" * 32}
    token = access(**shared).credentials.mint("anything", MINUTE, NOW_S)
    assert access(**shared).credentials.grant(token, NOW_S).max_session_s == 10_800
    assert name(access(), token) == INVALID
    assert name(access(), access().credentials.mint("anything", MINUTE, NOW_S)) == INVALID
