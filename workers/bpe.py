"""Vocabularies: what each token spells, and the tokens that spell a text.

Three kinds are read, as `tokenizer.json` writes them: BPE over characters that falls back to single bytes (Moonshine's,
Llama's), BPE over bytes written as characters (GPT-2's, Whisper's), and SentencePiece's, Unigram or BPE, whose pieces
write a space as U+2581 (Nemotron's).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

# GPT-2's vocabulary is written in characters that stand for bytes: printable ones for themselves, the others, in order,
# for the characters from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(_HIDDEN)}
#: Where GPT-2 cuts a text before it joins bytes. (Its own pattern asks Unicode for letters and numbers; so does this.)
_CHUNK = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
#: `<|en|>`, `<|0.00|>`: never text, even where a tokenizer does not mark it as special.
_CONTROL = re.compile(r"<\|.*\|>")
#: `<fr-FR>` tells a language, special or not (`tags.py` takes it out of the text).
_LANGUAGE = re.compile(r"<[a-z]{2,3}-[A-Za-z]{2,4}>")


def pieces(tokenizer: Mapping[str, Any]) -> list[bytes]:
    """What each token id adds to the text, as UTF-8 bytes; nothing for the special ones.

    `tokenizer` is the parsed file. A token may be a part of a character, so join the bytes of several before
    decoding. Words begin with a space.
    Raises ValueError for a tokenizer of neither kind.
    """
    model = tokenizer["model"]
    decoder = tokenizer.get("decoder") or {}
    over_bytes = decoder.get("type") == "ByteLevel"
    if not (over_bytes or model.get("byte_fallback") or _by_spaces(decoder)):
        raise ValueError("neither BPE over bytes, nor with byte fallback, nor pieces that mark spaces")
    if model.get("type") not in ("BPE", "Unigram"):
        raise ValueError(f"a vocabulary of kind {model.get('type')}, which is neither BPE nor Unigram")
    piece = _written_in_bytes if over_bytes else _with_fallback
    vocabulary = model["vocab"]
    if model["type"] == "Unigram":  # a list of pieces with their scores
        vocabulary = {text: number for number, (text, _) in enumerate(vocabulary)}
    found = {number: piece(text) for text, number in vocabulary.items()}
    for token in tokenizer.get("added_tokens", []):
        silent = token["special"] and not _LANGUAGE.fullmatch(token["content"])
        silent = silent or _CONTROL.fullmatch(token["content"])
        found[token["id"]] = b"" if silent else piece(token["content"])
    return [found.get(number, b"") for number in range(max(found) + 1)]


def _by_spaces(decoder: Mapping[str, Any]) -> bool:
    """Whether U+2581 stands for a space, in this decoder or one of its parts."""
    replaces = decoder.get("type") == "Replace" and decoder.get("pattern") == {"String": "\u2581"}
    return replaces or decoder.get("type") == "Metaspace" or any(map(_by_spaces, decoder.get("decoders", ())))


def _with_fallback(text: str) -> bytes:
    if byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", text):
        return bytes.fromhex(byte[1])
    return text.replace("\u2581", " ").encode()


def _written_in_bytes(text: str) -> bytes:
    return bytes(_BYTE_OF[sign] for sign in text) if all(sign in _BYTE_OF for sign in text) else text.encode()


def speller(pieces: Sequence[bytes]) -> Callable[[str], list[int]]:
    """Text -> tokens, for a vocabulary of any kind: as BPE joins them, or where that finds no way, the fewest that
    spell it (a Unigram vocabulary has no pieces to join from). No token, if none do."""
    encoder, known = Encoder(pieces), {piece: number for number, piece in enumerate(pieces) if piece}
    longest = max(map(len, known), default=0)

    def fewest(text: bytes) -> list[int]:
        best: list[list[int] | None] = [[]]
        for end in range(1, len(text) + 1):
            ways = [
                [*before, known[text[start:end]]]
                for start in range(max(0, end - longest), end)
                if (before := best[start]) is not None and text[start:end] in known
            ]
            best.append(min(ways, key=len, default=None))
        return best[-1] or []

    def spell(text: str) -> list[int]:
        tokens = encoder.encode(text)
        spelled = b"".join(pieces[token] for token in tokens)
        return tokens if spelled == text.encode() else fewest(text.encode())

    return spell


class Encoder:
    """Text -> tokens of a vocabulary of either kind.

    Vocabularies are numbered in the order in which pairs were merged, so that the pair to join next is the one whose
    token has the lowest number: no list of merges is needed (as in OpenAI's tiktoken). One that falls back to bytes
    joins characters, which are numbered last; their single bytes come first, and spell only what has no character.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._ranks: dict[bytes, int] = {}
        spelled = [piece for piece in pieces if piece]
        #: Some bytes are spelled twice: by the fallback, and by the character of one byte.
        self._by_characters = len(spelled) > len(set(spelled))
        for number, piece in enumerate(pieces):
            if piece and self._by_characters and len(piece) == 1:
                self._ranks[piece] = number  # the character, which comes later
            elif piece:
                self._ranks.setdefault(piece, number)

    def encode(self, text: str) -> list[int]:
        """The tokens that spell `text`. Bytes that no token spells are left out."""
        return [token for chunk in _CHUNK.findall(text) for token in self._merged(chunk.encode())]

    def _merged(self, chunk: bytes) -> list[int]:
        parts = self._parts(chunk)
        while len(parts) > 1:
            ranked = [
                (rank, at)
                for at, (left, right) in enumerate(pairwise(parts))
                if (rank := self._ranks.get(left + right)) is not None
            ]
            if not ranked:
                break
            _, at = min(ranked)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self._ranks[part] for part in parts if part in self._ranks]

    def _parts(self, chunk: bytes) -> list[bytes]:
        """What is joined: single bytes, or characters where they have tokens."""
        if not self._by_characters:
            return [bytes([byte]) for byte in chunk]
        signs = [sign.encode() for sign in chunk.decode()]
        return [part for sign in signs for part in ([sign] if sign in self._ranks else map(bytes, zip(sign)))]
