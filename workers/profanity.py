"""`filter_profanity`: strong English words shown as `s***` (protocol 2.4).

Whole words only, in any case, with their endings: what merely contains one (Scunthorpe, cocktail, Hitchcock) stays. The
list is short, and its words have hardly another meaning: a mask over an ordinary word hurts a transcript more than a
mild word that stands. Names (Dick), Latin (cum) and everyday words (damn, hell, crap, ass) are left alone for that
reason, and so are endings that make an ordinary word (cocky, pricked).
"""

import re

#: Words that take a plural.
_NOUNS = """
arsehole asshole bastard clusterfuck cock cocksucker cunt dickhead dipshit douchebag dumbass faggot fuckface fuckhead
fuckup fuckwit jackass kike knobhead mindfuck motherfucker nigga nigger paki prick pussy shitbag shithead shithole
shitload shitshow shitstorm slut tosser tranny twat wanker wetback whore
"""
#: Words that take the endings of verbs too, and those of the adjectives made of them.
_VERBS = "arse bitch bollock bugger bullshit fuck horseshit jizz motherfuck piss shit shite wank whore"
_AS_THEY_ARE = "bollocks bullshitter cunty goddamn goddamned shat shitfaced slutty twatted"


def _noun(word: str) -> str:
    return f"{word[:-1]}(?:y|ies)" if word.endswith("y") else f"{word}(?:e?s)?"


def _verb(word: str) -> str:
    if word.endswith("e"):  # whor-ing
        return f"{word[:-1]}(?:e|es|ed|er|ers|ing|in|ey)"
    last = word[-1] if word.endswith("t") else ""  # shit-ting
    return f"{word}(?:e?s|{last}(?:ed|er|ers|ing|in|y))?"


_FORMS = sorted({*map(_noun, _NOUNS.split()), *map(_verb, _VERBS.split()), *_AS_THEY_ARE.split()})
_LETTER = r"[^\W\d_]"
_PROFANE = re.compile(rf"(?<!{_LETTER})(?:{'|'.join(_FORMS)})(?!{_LETTER})", re.IGNORECASE)


def masked(text: str) -> str:
    """`text` with each profane word's letters after the first replaced by stars; everything else as it was.

    Length, capitals and punctuation stay, so that words keep their places: "Shit," becomes "S***,".
    """
    return _PROFANE.sub(lambda found: found[0][0] + "*" * (len(found[0]) - 1), text)
