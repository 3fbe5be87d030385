"""Encryption of recordings: what comes back, and what does not."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import SettingsError
from wire.recorded import pack_batch
from wire.sealing import Box, Locked, SealedSettings, is_sealed, parse_key
from wire.service import load

KEY, OTHER = bytes(range(32)), bytes(32)


@given(st.binary(max_size=100))
def test_what_was_sealed_opens_with_the_same_key_and_shows_nothing(part):
    sealed = Box(KEY, "s").seal(part)
    assert is_sealed(sealed)
    assert Box(KEY, "s").open(sealed) == part
    assert len(part) < 8 or part not in sealed


def test_the_same_part_is_sealed_otherwise_each_time():
    assert Box(KEY, "s").seal(b"part") != Box(KEY, "s").seal(b"part")


@pytest.mark.parametrize("box", [Box(OTHER, "s"), Box(KEY, "another")])
def test_another_key_and_another_recording_do_not_open_it(box):
    with pytest.raises(Locked, match="RECORD_KEY is not the key"):
        box.open(Box(KEY, "s").seal(b"part"))


def test_without_a_key_that_is_what_is_said():
    with pytest.raises(Locked, match="RECORD_KEY is not set"):
        Box(None, "s").open(Box(KEY, "s").seal(b"part"))


@given(st.integers(0, 200), st.integers(1, 255))
def test_no_byte_can_be_changed(place, change):
    sealed = bytearray(Box(KEY, "s").seal(bytes(100)))
    place %= len(sealed)
    sealed[place] ^= change
    if not place:
        assert not is_sealed(bytes(sealed))
        return
    with pytest.raises(Locked):
        Box(KEY, "s").open(bytes(sealed))


def test_what_was_never_sealed_is_as_it_was():
    packed = pack_batch("here", 0, [])
    assert Box(None, "s").seal(packed) == Box(KEY, "s").open(packed) == packed
    assert (Box(None, "s").seals, Box(KEY, "s").seals) == (False, True)


@pytest.mark.parametrize(
    "form", [bytes.hex, lambda key: base64.b64encode(key).decode(), lambda key: key.hex() + "\n"]
)
def test_a_key_is_read_in_hexadecimal_and_base64(form, monkeypatch):
    assert parse_key(form(KEY)) == KEY
    monkeypatch.setenv("RECORD_KEY", form(KEY))
    assert load(SealedSettings).seal_key == KEY


@pytest.mark.parametrize("text", ["secret", "ab" * 31, base64.b64encode(KEY[:16]).decode(), "é" * 44])
def test_a_bad_key_is_told_and_not_shown(text, monkeypatch):
    monkeypatch.setenv("RECORD_KEY", text)
    with pytest.raises(SettingsError, match="RECORD_KEY") as refused:
        load(SealedSettings)
    assert text not in str(refused.value)


def test_no_key_is_no_key(monkeypatch):
    monkeypatch.delenv("RECORD_KEY", raising=False)
    assert load(SealedSettings).seal_key is None
