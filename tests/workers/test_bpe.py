from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from workers import checkpoints
from workers.bpe import Encoder, pieces

SPECIAL = {"id": 5, "content": "<|end|>", "special": True}
TIMESTAMP = {"id": 6, "content": "<|0.02|>", "special": False}


def over_bytes(vocabulary: dict[str, int], *added: dict[str, Any]) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    return {"model": model, "decoder": {"type": "ByteLevel"}, "added_tokens": list(added)}


def test_characters_that_stand_for_bytes_are_read_as_these() -> None:
    vocabulary = {"a": 0, "\u0120a": 1, "\u00c3\u00a9": 2, "\u010a": 3, "\u00e6\u0139": 4}
    found = pieces(over_bytes(vocabulary, SPECIAL, TIMESTAMP))
    assert found == [b"a", b" a", "é".encode(), b"\n", b"\xe6\x97", b"", b""]


def test_single_bytes_and_spaces_of_the_other_kind() -> None:
    model = {"type": "BPE", "byte_fallback": True, "vocab": {"<0xE9>": 0, "\u2581so": 1, "\u00e9": 2}}
    assert pieces({"model": model}) == [b"\xe9", b" so", "é".encode()]


@pytest.mark.parametrize("model", [{"type": "BPE", "vocab": {}}, {"type": "Unigram", "byte_fallback": True}])
def test_another_kind_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="neither"):
        pieces({"model": model})


def test_the_lowest_pair_is_joined_first() -> None:
    vocabulary = [b"a", b"b", b"c", b"bc", b"ab", b" ", b" a"]
    assert Encoder(vocabulary).encode("abc") == [0, 3]
    assert Encoder(vocabulary).encode("ab abz") == [4, 5, 4]  # nothing spells z


# --- the real vocabulary


@cache
def real() -> tuple[Encoder, Tokenizer, list[bytes]]:
    """Ours, and the library's with its own merges."""
    folder = checkpoints.fetch("whisper-base")
    spelling = checkpoints.pieces(folder)
    theirs = Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
    return Encoder(spelling), theirs, spelling


@pytest.mark.weights
@pytest.mark.parametrize(
    "text",
    [
        " The quick brown fox, it's 10:30; we'll see (3.5%).",
        "こんにちは、世界。2026年",
        " नमस्ते दुनिया!",
        "สวัสดี ครับ",
        "a  b\n\nc \U0001f600",
    ],
)
def test_real_text_is_spelled_as_the_library_does(text: str) -> None:
    encoder, theirs, spelling = real()
    tokens = encoder.encode(text)
    assert b"".join(spelling[token] for token in tokens).decode() == text
    if not any(
        "\u0900" <= sign <= "\u0e7f" for sign in text
    ):  # marks of vowels: cut elsewhere, spelled alike
        assert tokens == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.weights
@given(st.text(max_size=40))
def test_what_is_encoded_is_spelled_again(text: str) -> None:
    encoder, _, spelling = real()
    text = text.encode(errors="replace").decode()
    assert b"".join(spelling[token] for token in encoder.encode(text)).decode() == text


@pytest.mark.weights
def test_the_real_vocabulary_is_whole() -> None:
    _, _, spelling = real()
    assert len(spelling) == 51865
    assert all(spelling[:50256])
    assert not any(spelling[50256:])  # an empty one, then the special ones and the timestamps
