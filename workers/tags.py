"""Languages as Nemotron's multilingual transducer has them: a prompt's number says which to expect, and a tag behind a
sentence (`<fr-FR>`) which was heard.

Pure. A tag may come in pieces, as tokens do, so what may be the begin of one is held back until more is known.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Code -> prompt, of the published dictionary; the codes of the protocol that the model knows.
PROMPTS: Mapping[str, int] = {
    "en": 0,
    "es": 3,
    "zh": 4,
    "hi": 6,
    "ar": 7,
    "fr": 8,
    "de": 9,
    "ja": 10,
    "ru": 11,
    "pt": 13,
    "ko": 14,
    "it": 15,
    "nl": 16,
    "pl": 17,
    "tr": 18,
    "uk": 19,
    "ro": 20,
    "el": 21,
    "cs": 22,
    "hu": 23,
    "sv": 24,
    "da": 25,
    "fi": 26,
    "no": 27,
    "sk": 28,
    "hr": 29,
    "bg": 30,
    "lt": 31,
    "th": 32,
    "vi": 33,
    "ur": 37,
    "fa": 38,
    "mr": 41,
    "zu": 51,
    "af": 54,
    "et": 60,
    "lv": 61,
    "sl": 62,
    "he": 64,
    "nn": 104,
}

_TAG = re.compile(r"\s*<([a-z]{2,3})(-[A-Za-z]{2,4})?>")
_BEGUN = re.compile(r"\s*<[a-z]{0,3}(-[A-Za-z]{0,4})?$")


@dataclass(frozen=True)
class Read:
    """`words`: places of the tokens that spell words; `held`: how many at the end may become a tag; the `language` of
    the last tag, and how sure the model was of its tokens."""

    words: tuple[int, ...]
    held: int = 0
    language: str | None = None
    confidence: float = 0.0


def read(texts: Sequence[str], odds: Sequence[float]) -> Read:
    """Tell tags from words in what tokens spell."""
    whole = "".join(texts)
    if "<" not in whole:
        return Read(tuple(range(len(texts))))
    ends = [0]
    for text in texts:
        ends.append(ends[-1] + len(text))
    begun = _BEGUN.search(whole)
    tags = list(_TAG.finditer(whole))
    spans = [tag.span() for tag in tags] + ([begun.span()] if begun else [])
    inside = [
        next((n for n, (start, end) in enumerate(spans) if start < ends[at + 1] and ends[at] < end), None)
        for at in range(len(texts))
    ]
    words = tuple(at for at, span in enumerate(inside) if span is None)
    held = inside.count(len(tags)) if begun else 0
    if not tags:
        return Read(words, held)
    of_last = [odds[at] for at, span in enumerate(inside) if span == len(tags) - 1]
    return Read(words, held, tags[-1][1], math.prod(of_last))


def prompt(language: str | None, dictionary: Mapping[str, int], otherwise: int) -> int:
    """The number of the prompt for this language; `otherwise`, where none is given or the model has none for it."""
    return dictionary.get(language or "", PROMPTS.get(language or "", otherwise))
