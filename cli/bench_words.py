"""How wrong a transcript is: words, or signs where a script has no spaces, made comparable and counted."""

import unicodedata
from collections.abc import Sequence

from cli.bench_machine import tool

#: Languages that are counted by signs: their scripts put no space between words.
BY_SIGNS = frozenset({"ja", "zh"})
_APOSTROPHES = str.maketrans({"\u2019": "'"})
#: One to ten in each language of the recordings: models write them as words or as numerals, as they please.
_COUNTED = {
    "en": "one two three four five six seven eight nine ten",
    "es": "uno dos tres cuatro cinco seis siete ocho nueve diez",
    "fr": "un deux trois quatre cinq six sept huit neuf dix",
    "hi": "एक दो तीन चार पांच छह सात आठ नौ दस",
    "it": "uno due tre quattro cinque sei sette otto nove dieci",
    "ja": "一 二 三 四 五 六 七 八 九 十",
    "pl": "jeden dwa trzy cztery pięć sześć siedem osiem dziewięć dziesięć",
    "pt": "um dois três quatro cinco seis sete oito nove dez",
    "zh": "一 二 三 四 五 六 七 八 九 十",
}
NUMERALS = {
    language: {word: str(number) for number, word in enumerate(words.split(), start=1)}
    for language, words in _COUNTED.items()
}


def unit(language: str) -> str:
    """What an error is an error of."""
    return "character" if language in BY_SIGNS else "word"


def normalised(text: str, language: str = "en") -> str:
    """Lower case, no punctuation but apostrophes, one to ten in numerals, single spaces.

    In the languages of `BY_SIGNS` each sign stands alone.
    """
    lower = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).lower()
    kept = "".join(
        sign if sign == "'" or unicodedata.category(sign)[0] not in "PS" else " " for sign in lower
    )
    words = ["".join(kept.split())] if language in BY_SIGNS else kept.split()
    numerals = NUMERALS.get(language, {})
    if language in BY_SIGNS:
        return " ".join("".join(numerals.get(sign, sign) for word in words for sign in word))
    return " ".join(numerals.get(word, word) for word in words)


def rate(references: Sequence[str], hypotheses: Sequence[str], languages: Sequence[str] = ()) -> float:
    """Errors in percent of the references' units, all normalised; 0 where no reference has one. All are English unless
    `languages` says otherwise.
    """
    codes = languages or ["en"] * len(references)
    triples = zip(references, hypotheses, codes, strict=True)
    pairs = [(normalised(a, code), normalised(b, code)) for a, b, code in triples]
    pairs = [pair for pair in pairs if pair[0]]
    if not pairs:
        return 0.0
    return round(100 * float(tool("jiwer").wer([a for a, _ in pairs], [b for _, b in pairs])), 2)
