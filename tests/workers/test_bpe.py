from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from workers import checkpoints
from workers.bpe import Encoder, pieces, speller

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


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "Metaspace"},
        {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}],
        },
    ],
)
def test_pieces_that_mark_spaces_and_languages_that_are_told(decoder: dict[str, Any]) -> None:
    unigram = {
        "type": "Unigram",
        "vocab": [["<unk>", 0.0], ["\u2581ze", -1.0], ["ro", -2.0], ["<fr-FR>", 0.0]],
    }
    added = [{"id": 0, "content": "<unk>", "special": True}, {"id": 3, "content": "<fr-FR>", "special": True}]
    found = pieces({"model": unigram, "decoder": decoder, "added_tokens": added})
    assert found == [b"", b" ze", b"ro", b"<fr-FR>"]
    bpe = {"type": "BPE", "vocab": {"\u2581a": 0, "b": 1}, "byte_fallback": False}
    assert pieces({"model": bpe, "decoder": decoder}) == [b" a", b"b"]


@pytest.mark.parametrize(
    "model", [{"type": "BPE", "vocab": {}}, {"type": "WordPiece", "byte_fallback": True}]
)
def test_another_kind_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="neither"):
        pieces({"model": model})


def test_the_lowest_pair_is_joined_first() -> None:
    vocabulary = [b"a", b"b", b"c", b"bc", b"ab", b" ", b" a"]
    assert Encoder(vocabulary).encode("abc") == [0, 3]
    assert Encoder(vocabulary).encode("ab abz") == [4, 5, 4]  # nothing spells z


def test_a_fallbacks_bytes_spell_only_what_has_no_character() -> None:
    vocabulary = [
        b"",
        b"a",
        b"\xc3",
        b"\xa9",
        b"\xc3\xa9a",
        b" a",
        b" ",
        b"a",
        "é".encode(),
    ]  # 1 to 3 are bytes
    assert Encoder(vocabulary).encode("aé") == [7, 8]
    assert Encoder(vocabulary).encode(" aéa") == [5, 4]
    assert Encoder(vocabulary[:-1]).encode("é") == [2, 3]


def test_pieces_of_which_none_can_be_joined_are_found_all_the_same() -> None:
    vocabulary = [b"", b" ze", b"ro", b" s", b"even", b" se", b"ven", b" seven"]
    assert speller(vocabulary)(" zero") == [1, 2]
    assert speller(vocabulary)(" seven") == [7]
    assert speller(vocabulary)(" eleven") == []
    assert speller([b"a", b"b", b"ab"])("aba") == [2, 0]


# --- the real vocabulary


@cache
def real() -> tuple[Encoder, Tokenizer, list[bytes]]:
    """Ours, and the library's with its own merges."""
    folder = checkpoints.fetch("whisper-base")
    spelling = checkpoints.pieces(folder)
    theirs = Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
    return Encoder(spelling), theirs, spelling


@cache
def fallback() -> list[bytes]:
    """Moonshine's, which falls back to bytes; its file tells no merges."""
    return checkpoints.pieces(checkpoints.fetch("moonshine-tiny-en"))


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
@given(st.text(max_size=40))
def test_what_is_encoded_for_the_other_kind_is_spelled_again(text: str) -> None:
    spelling = fallback()
    text = text.encode(errors="replace").decode()
    assert b"".join(spelling[token] for token in Encoder(spelling).encode(text)).decode() == text


@pytest.mark.weights
def test_the_other_kind_is_spelled_as_its_model_spells() -> None:
    """Tokens that Moonshine said: of the words of a recording, and of a name that it can spell."""
    spelling = fallback()
    for said in (
        [b" It", b" was", b" the", b" age", b" of", b" fool", b"ish", b"ness", b"."],
        [b" K", b"ow", b"al", b"czy", b"k"],
    ):
        text = b"".join(said).decode()
        tokens = Encoder(spelling).encode(text)
        assert [spelling[token] for token in tokens] == said
        assert all(token > 258 for token in tokens)  # those below are bytes


@pytest.mark.weights
def test_the_real_vocabulary_is_whole() -> None:
    _, _, spelling = real()
    assert len(spelling) == 51865
    assert all(spelling[:50256])
    assert not any(spelling[50256:])  # an empty one, then the special ones and the timestamps
