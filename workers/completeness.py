"""Whether a turn that closes a sentence is likely to go on all the same: it stops inside a number, a spelling or an
address (protocol 5.2, rule 4).

A model that hears "My number is 555" and then silence writes a full stop. People who dictate pause between groups, so
that is no end. What is looked at is the text alone, as the model writes it: digits, single letters, signs. The words
that announce something are English; what is announced in another language is recognised by its signs only.

A wrong guess costs little: the turn is held for a silence that is bounded, never for ever.
"""

import re
from collections.abc import Sequence

#: No sentence ends with one of these, whatever mark the model puts behind it.
_LEADS_ON = frozenset({"an", "and", "but", "dash", "dot", "hyphen", "my", "or", "our", "slash", "the"})
_LEADS_ON |= {"their", "underscore", "your"}
#: Nor with one of these where something was announced.
_POINTS = frozenset({"is", "at", "it's"})
#: Digits that a number of this name has when it is whole; the first that was named is looked for.
_LENGTHS: dict[str, tuple[int, ...]] = {
    "phone": (7, 10, 11, 12),
    "account": (6, 7, 8, 9, 10, 11, 12),
    "card": (15, 16),
    "zip": (5, 9),
    "postcode": (5, 6, 7, 9),
    "social": (9,),
    "routing": (9,),
    "code": (4, 5, 6, 8),
    "pin": (4, 6),
    "number": (7, 8, 9, 10, 11, 12, 13, 14, 15, 16),
}
#: What somebody says before spelling, before an address, before one of mail.
_SPELLS = frozenset({"spell", "spelled", "spelling", "spelt"})
_LIVES = frozenset({"address", "live", "lives", "living"})
_MAILS = frozenset({"email", "e-mail", "mail"})
_ANNOUNCES = _LIVES | _MAILS | {*_LENGTHS, "name"}
_DIGIT_WORDS = frozenset(
    {"zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
)
#: A group of digits on its own is at most so long; two of them in a row are a number being dictated.
_GROUP = 4
#: A house has at most so many digits.
_HOUSE = 5
_LETTER = re.compile(r"[^\W\d_](-[^\W\d_])*", re.UNICODE)
_NUMBER = re.compile(r"\+?[\d\-]*\d[\d\-]*")
_MAIL = re.compile(r"\S+@\S+\.\w{2,}")


def unfinished(words: Sequence[str]) -> bool:
    """Whether the last of these words stands inside something that is not whole yet."""
    bare = [word.strip(".,?!;:\"'()").lower() for word in words]
    return bool(bare) and any(judge(bare) for judge in (_leads_on, _spells, _mails, _counts))


def _leads_on(bare: Sequence[str]) -> bool:
    """The last word asks for another one."""
    return bare[-1] in _LEADS_ON or (bare[-1] in _POINTS and bool(_ANNOUNCES & {*bare}))


def _spells(bare: Sequence[str]) -> bool:
    """Letters one by one: two or more in a row, or one where spelling was announced."""
    letters = 0
    for word in reversed(bare):
        if not _LETTER.fullmatch(word):
            break
        letters += len(word.split("-"))
    announced = bool(_SPELLS & {*bare})
    return letters >= (1 if announced else 2) and (announced or "i" not in bare[-letters:])


def _mails(bare: Sequence[str]) -> bool:
    """An address of mail was announced and has begun, and what stands there is none yet."""
    places = [place for place, word in enumerate(bare) if word in _MAILS]
    if bare[-1].endswith("@") or ("@" in bare[-1] and not _MAIL.fullmatch(bare[-1])):
        return True
    if not places:
        return False
    rest = bare[places[-1] + 1 :]
    begun = [place for place, word in enumerate(rest[:2]) if word in {"is", "it's"}]
    said = rest[begun[0] + 1 :] if begun else []
    whole = any(_MAIL.fullmatch(word) for word in said) or "dot" in said[:-1]
    return bool(said) and not whole


def _counts(bare: Sequence[str]) -> bool:
    """Digits at the end, fewer than such a number has; or a house number without its street."""
    groups: list[str] = []
    for word in reversed(bare):
        if not _NUMBER.fullmatch(word) and word not in _DIGIT_WORDS:
            break
        groups.append(word)
    if not groups:
        return False
    digits = sum(1 if word in _DIGIT_WORDS else sum(sign.isdigit() for sign in word) for word in groups)
    before = bare[: len(bare) - len(groups)]
    named = next((name for name in _LENGTHS if name in before), None)
    if named is not None:
        return digits not in _LENGTHS[named] and digits < max(_LENGTHS[named])
    if _LIVES & {*before} and before[-1] in {"is", "at"}:
        return digits <= _HOUSE
    dictated = len(groups) > 1 and all(len(word) <= _GROUP or word in _DIGIT_WORDS for word in groups)
    return dictated and digits < min(_LENGTHS["phone"])
