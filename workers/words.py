"""Tokens -> words: text pieces, token times and token probabilities become words with times and confidence.

A word begins where a piece begins with a space (the vocabulary's U+2581). Scripts that are written without spaces have
no such place: there a word is a short unit, a token or a few, and `join` puts no space between two of them. Bytes of
several pieces are joined before decoding, so that characters spelled in raw bytes survive. Beside it: token times from
cross-attention, agreement of successive hypotheses, and the guards against a decoder that runs away.
"""

import codecs
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

#: No word is shorter: the grain of Whisper's and Moonshine's encoders is 20 to 24 ms, clients want start < end.
MIN_WORD_MS = 20

#: Marks that close a sentence, in the scripts of all languages served (protocol 5.2): Latin, Chinese and
#: Japanese, Hindi, Arabic, Urdu.
FULL_STOPS = (".", "?", "!", *"\u3002\uff1f\uff01\u0964\u061f\u06d4")

#: Tokens a decoder may spend per second of audio (the rule of Moonshine's authors), and on however little audio.
TOKENS_PER_S = 6.5
MIN_TOKENS = 8

#: A loop is a phrase of at most so many tokens, said at least so often, and so many tokens in all: people say "no"
#: three times or a digit six times in a row, a decoder that lost the audio does not stop.
LOOP_PHRASE_TOKENS = 8
LOOP_TIMES = 4
LOOP_TOKENS = 10

#: Frames in the median filter over attention, as in Whisper's word timing, and the swaps that find the median.
MEDIAN_FRAMES = 7
_MEDIAN_OF_7 = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)
#: A token is heard from the first to the last frame of its stretch with this share of the stretch's peak attention.
HEARD_SHARE = 0.25

#: A phrase said twice in a row, of at least so many tokens, up to where a decode ran out of its cap.
TWICE_TOKENS, LONGEST_TWICE = 5, 60

#: A text is made up if so many of its words, and this share of them, find no time in the audio.
MADE_UP_WORDS, MADE_UP_SHARE = 3, 0.7

#: Scripts without spaces: Han with its signs, kana, the fullwidth forms ...
_CJK = "\u2e80-\u2fdf\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
#: ... and Thai, Lao, Burmese and Khmer, in which a token is often a letter and a unit therefore several.
_SOUTHEAST = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_IN_CJK, _IN_SOUTHEAST = re.compile(f"[{_CJK}]"), re.compile(f"[{_SOUTHEAST}]")
#: Kana that belong to the sign before them: small ones, the long vowel, marks of repetition and voicing.
_FOLLOWS = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶー々ゝゞヽヾ゛゜")
#: Vowels written before the consonant after which they are spoken: nothing ends behind one.
_LEADS = frozenset("เแโใไເແໂໃໄ")
#: The least length of a unit of those, in characters.
SOUTHEAST_UNIT = 4

#: A piece of a word in letters of ASCII, maybe its first.
_PLAIN = re.compile(rb" ?[A-Za-z0-9]+")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}".encode()
#: Signs of Unicode's punctuation that are said, and so may be a word of their own.
_SAID = frozenset("&%@#*/\\_")


@dataclass(frozen=True)
class Word:
    """`start_ms < end_ms` in audio time, `confidence` 0 to 1; `tokens`: how many tokens spell it."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float
    tokens: int = 1


# --------------------------------------------------------------------------------------------------------------
# text


def spell(
    pieces: Sequence[bytes],
    tokens: Sequence[int],
    starts_ms: Sequence[float] | NDArray[np.floating],
    ends_ms: Sequence[float] | NDArray[np.floating],
    probabilities: Sequence[float] | NDArray[np.floating],
) -> list[Word]:
    """Words of `tokens`; `pieces[token]` are a token's bytes, empty for special tokens; one time and doubt per token.

    - Punctuation joins the word before it and counts neither for its time (it is "heard" in the pause that follows)
      nor for its confidence (doubt between comma and full stop says nothing about the word). Before the first word
      it is dropped: a decode that says only "." has no word.
    - Confidence is the geometric mean of the token probabilities: the word's own probability is their product, and
      the mean makes words of one and of five tokens comparable. Within 0..1, never NaN.
    - Words neither overlap nor run backwards, and last at least MIN_WORD_MS.
    - A character whose bytes are not all there yet is held back: the text shows it when it is whole.
    - Every token belongs to one word: the `tokens` of the first n words add up to the token prefix that spells them
      (skipped tokens count with the word before, or the first). No words, no account.
    """
    spelled = [_spelling(pieces, token) for token in tokens]
    leading = 0  # tokens before the first word
    if all(map(_PLAIN.fullmatch, spelled)):  # most of English: nothing of what follows can happen
        words = _plain(spelled)
        said = [word.places for word in words]
    else:
        words, leading = _marked(spelled)
        said = [
            [place for place in word.places if not all(map(is_mark, _text(spelled[place])))] for word in words
        ]
    starts, ends = _apart([starts_ms[places[0]] for places in said], [ends_ms[places[-1]] for places in said])
    counts = [len(word.places) + (leading if number == 0 else 0) for number, word in enumerate(words)]
    confidences = [_geometric_mean([probabilities[place] for place in places]) for places in said]
    texts = [word.text for word in words]
    return list(map(Word, texts, starts, ends, confidences, counts))


@dataclass(frozen=True)
class _Spelled:
    text: str
    places: list[int]


def _plain(spelled: Sequence[bytes]) -> list[_Spelled]:
    """Words of pieces that all fit `_PLAIN`."""
    groups: list[list[int]] = []
    for place, spelling in enumerate(spelled):
        if not groups or spelling.startswith(b" "):
            groups.append([])
        groups[-1].append(place)
    return [_Spelled(b"".join(spelled[place] for place in group).strip().decode(), group) for group in groups]


def _marked(spelled: Sequence[bytes]) -> tuple[list[_Spelled], int]:
    """Words of any pieces, punctuation joined to them, and how many pieces come before the first word."""
    words: list[_Spelled] = []
    leading = 0
    for group in _groups(spelled):
        text = _text(b"".join(spelled[place] for place in group), held=True)
        if not all(map(is_mark, text)):
            words.append(_Spelled(text, group))
        elif words:
            words[-1] = _Spelled(words[-1].text + text, [*words[-1].places, *group])
        else:
            leading += len(group)
    return words, leading


def _spelling(pieces: Sequence[bytes], token: int) -> bytes:
    return pieces[token].replace(_SPACE, b" ") if 0 <= token < len(pieces) else b""


def _text(spelling: bytes, held: bool = False) -> str:
    """`held`: a character whose last bytes are missing is held back; else it is replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return " ".join(decoder.decode(spelling, final=not held).split())


def _groups(spelled: Sequence[bytes]) -> list[list[int]]:
    """Places of the tokens from one space to the next; where none are written, of the tokens of a unit."""
    groups: list[list[int]] = []
    text = ""  # of the group so far
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for place, spelling in enumerate(spelled):
        spaced = spelling[:1].isspace()
        if spaced:
            decoder.reset()
        whole = not decoder.getstate()[0]  # the character before is complete
        gained = decoder.decode(spelling)
        if not groups or spaced or (whole and gained and _parts(text, gained)):
            groups.append([])
            text = ""
        groups[-1].append(place)
        text += gained
    return groups


def goes_on(piece: bytes) -> bool:
    """Whether a token that spells this is written onto the word before it, as "'re" and "ing" are: no punctuation, and
    nothing of a script without spaces."""
    text = piece.replace(_SPACE, b" ").decode(errors="ignore")
    if not text or text[0].isspace():
        return False
    first = text.lstrip("'\N{RIGHT SINGLE QUOTATION MARK}")[:1]
    return not first or (first.isalnum() and not (_IN_CJK.match(first) or _IN_SOUTHEAST.match(first)))


def _parts(before: str, after: str) -> bool:
    """Whether a unit ends between the two, neither of them with a space there."""
    left, right = before[-1:], after[0]
    if not left or left.isspace() or _joins(right):
        return False
    if _IN_CJK.match(left) or _IN_CJK.match(right):
        return True
    if _IN_SOUTHEAST.match(left) and _IN_SOUTHEAST.match(right):
        return left not in _LEADS and len(before.strip()) >= SOUTHEAST_UNIT
    return bool(_IN_SOUTHEAST.match(left) or _IN_SOUTHEAST.match(right)) and left.isalnum()


def _joins(sign: str) -> bool:
    """Whether it is written onto the character before it."""
    return sign in _FOLLOWS or unicodedata.category(sign).startswith("M")


def _geometric_mean(probabilities: Sequence[float]) -> float:
    bounded = [min(max(1e-9, value), 1.0) for value in probabilities]  # in this order NaN becomes 1e-9
    return min(1.0, math.exp(sum(map(math.log, bounded)) / len(bounded)))


def _apart(starts: Sequence[float], ends: Sequence[float]) -> tuple[list[int], list[int]]:
    """Whole ms, each word at least MIN_WORD_MS, none before the end of the one before."""
    out: tuple[list[int], list[int]] = ([], [])
    cursor = 0
    for start, end in zip(starts, ends, strict=True):
        begin = max(cursor, round(start)) if math.isfinite(start) else cursor
        cursor = max(begin + MIN_WORD_MS, round(end)) if math.isfinite(end) else begin + MIN_WORD_MS
        out[0].append(begin)
        out[1].append(cursor)
    return out


def fit(words: Sequence[Word], after_ms: int, until_ms: int) -> list[Word]:
    """The same words with their times moved into `after_ms`..`until_ms`, still apart and MIN_WORD_MS long.

    Successive decodes time a word a little differently; a word may not start before the settled one ends, nor end
    past what was heard. Where the room is too small for all, `until_ms` gives way.
    """
    starts, ends = [word.start_ms for word in words], [word.end_ms for word in words]
    latest = max(until_ms, after_ms + MIN_WORD_MS * len(words))
    for place in reversed(range(len(words))):
        ends[place] = min(ends[place], latest)
        starts[place] = latest = min(starts[place], ends[place] - MIN_WORD_MS)
    starts, ends = _apart([max(start, after_ms) for start in starts], ends)
    return [replace(w, start_ms=s, end_ms=e) for w, s, e in zip(words, starts, ends, strict=True)]


def join(texts: Sequence[str]) -> str:
    """The words' texts as a reader expects them: a space between two, but none where the script is written without.

    Between Han or kana and anything else there is none; between two words of Thai, Lao, Burmese or Khmer neither.
    """
    joined = ""
    for text in texts:
        joined += f" {text}" if joined and text and _spaced(joined[-1], text[0]) else text
    return joined


def _spaced(left: str, right: str) -> bool:
    if _IN_CJK.match(left) or _IN_CJK.match(right):
        return False
    return not (_IN_SOUTHEAST.match(left) and _IN_SOUTHEAST.match(right))


def is_mark(sign: str) -> bool:
    """Whether the character is punctuation that nobody says."""
    return unicodedata.category(sign).startswith("P") and sign not in _SAID


def spaceless(sign: str) -> bool:
    """Whether the character is of a script that is written without spaces."""
    return bool(_IN_CJK.match(sign) or _IN_SOUTHEAST.match(sign))


def unformatted(text: str) -> str:
    """Lower case without punctuation; signs inside a word or number stay ("don't", "well-known", "3.5", "10:30")."""
    signs = (sign for place, sign in enumerate(text) if not is_mark(sign) or _inner(text, place))
    return "".join(signs).lower() or text


def _inner(text: str, place: int) -> bool:
    before, sign, after = text[place - 1 : place], text[place], text[place + 1 : place + 2]
    if sign in "'-\N{RIGHT SINGLE QUOTATION MARK}":
        return before.isalnum() and after.isalnum()
    return sign in ".,:" and before.isdigit() and after.isdigit()


# --------------------------------------------------------------------------------------------------------------
# agreement of successive hypotheses


def agreed(previous: Sequence[Word], new: Sequence[Word]) -> int:
    """How many words at the front of `new` are confirmed by `previous`, the hypothesis before (LocalAgreement-2).

    Liu et al. 2020, "Low-latency sequence-to-sequence speech recognition and translation by partial hypothesis
    selection"; for Whisper, Machacek et al. 2023, "Turning Whisper into real-time transcription system". Texts must
    be equal, case and punctuation too: a settled word never changes, so a comma in doubt is a reason to wait, and the
    wait is one decode.

    One exception. The mark after the very last word of `previous` was a guess about audio it had not heard: cut speech
    gets a full stop. If `new` goes on past that word, its own mark is the informed one and the word is confirmed.
    """
    count = 0
    for old, now in zip(previous, new, strict=False):
        if old.text != now.text:
            went_on = count == len(previous) - 1 and count < len(new) - 1
            return count + int(went_on and _bare(old.text) == _bare(now.text))
        count += 1
    return count


def _bare(text: str) -> str:
    """Without the marks at its end."""
    end = len(text)
    while end and is_mark(text[end - 1]):
        end -= 1
    return text[:end]


# --------------------------------------------------------------------------------------------------------------
# guards


def token_cap(audio_s: float, per_s: float = TOKENS_PER_S) -> int:
    """Most tokens that `audio_s` seconds of speech can hold; past it the decoder invents."""
    return max(MIN_TOKENS, math.ceil(audio_s * per_s))


def heard_once(words: Sequence[Word]) -> list[Word]:
    """The words that the audio holds; their tokens are the first ones of what they were spelled from.

    Those at the end that say again what stands before them, where either of the two finds no time to be said in, come
    from the text before: what is kept has the times of the one that does. So do several in a row at the end that find
    none, whatever they say; and where hardly any word finds time, all do.
    """
    kept = list(words)
    if _hurried(kept) >= max(MADE_UP_WORDS, MADE_UP_SHARE * len(kept)):
        return []
    lost = next((n for n, word in enumerate(reversed(kept)) if not _is_hurried(word)), len(kept))
    if lost >= MADE_UP_WORDS and not spaceless(kept[-1].text[:1]):
        del kept[-lost:]
    while again := next((n for n in range(1, len(kept) // 2 + 1) if _is_echo(kept[-2 * n :])), 0):
        said, echo = kept[-2 * again : -again], kept[-again:]
        if _hurried(echo) < _hurried(said):
            said = [
                replace(one, start_ms=other.start_ms, end_ms=other.end_ms)
                for one, other in zip(said, echo, strict=True)
            ]
        kept[-2 * again :] = said
    return kept


def _is_echo(words: Sequence[Word]) -> bool:
    """Whether the second half is the first again, and half of either takes no time."""
    half = len(words) // 2
    said, again = words[:half], words[half:]
    same = all(
        unformatted(one.text) == unformatted(other.text) for one, other in zip(said, again, strict=True)
    )
    return same and 2 * max(_hurried(said), _hurried(again)) >= half


def _hurried(words: Sequence[Word]) -> int:
    return sum(map(_is_hurried, words))


def _is_hurried(word: Word) -> bool:
    """Attention did not rest on it for more than a frame or two."""
    return word.end_ms - word.start_ms <= MIN_WORD_MS


def twice(tokens: Sequence[int]) -> int | None:
    """Where the tokens of a decode that ran out of its cap begin to say again what stands right before.

    Something said twice is no proof of a loop (`repeats` wants more), but a decode that did not come to an end is
    suspicious. None: nothing is said again.
    """
    for start in range(TWICE_TOKENS, len(tokens) - TWICE_TOKENS + 1):
        for phrase in range(TWICE_TOKENS, min(start, LONGEST_TWICE) + 1):
            said = tokens[start - phrase : start]
            again = tokens[start : start + phrase]
            if len(again) >= TWICE_TOKENS and list(said[: len(again)]) == list(again):
                return start
    return None


def repeats(tokens: Sequence[int]) -> int | None:
    """Index from which `tokens` repeat themselves: `tokens[:index]` says the looping phrase once. None: no loop."""
    found: list[int] = []
    for phrase in range(1, LOOP_PHRASE_TOKENS + 1):
        needed = max(phrase * LOOP_TIMES, LOOP_TOKENS) - phrase  # tokens equal to the one a phrase before
        run = 0
        for place in range(phrase, len(tokens)):
            run = run + 1 if tokens[place] == tokens[place - phrase] else 0
            if run >= needed:
                found.append(place - run + 1)
                break
    return min(found, default=None)


# --------------------------------------------------------------------------------------------------------------
# times


def align(
    attention: NDArray[np.floating], frame_ms: float, origin_ms: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end (ms) of each token from cross-attention.

    `attention` [Q, T]: row q is where the decoder looked, over T encoder frames of `frame_ms`, when it *predicted*
    token q (the query one place before the token), summed over heads that follow the audio; frame 0 starts at
    `origin_ms`.

    As in Whisper's word timing (Radford et al. 2022, "Robust speech recognition via large-scale weak supervision", and
    its released `timing` module): normalise each frame over the tokens, filter with a median over frames, then find the
    monotonic path of most attention by dynamic time warping. The path gives every frame to some token, pauses
    too; so each token is then narrowed to the frames of its stretch that were looked at. Starts and ends never
    decrease; tokens may share a frame where there are more tokens than frames.

    Raises ValueError if there are tokens but no frames.
    """
    weights = np.nan_to_num(np.asarray(attention, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if weights.ndim != 2 or (weights.shape[0] and not weights.shape[1]):
        raise ValueError(f"attention is {weights.shape}, expected [tokens, frames]")
    if not weights.shape[0]:
        return np.zeros(0), np.zeros(0)
    weights = _median(weights)
    spread = weights.std(axis=0)
    first, last = _path((weights.mean(axis=0) - weights) / np.where(spread > 1e-9, spread, 1.0))
    first, last = _narrow(weights, first, last)
    return np.asarray(origin_ms + first * frame_ms, np.float64), np.asarray(
        origin_ms + (last + 1) * frame_ms, np.float64
    )


def _median(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median over seven neighbouring frames, edges reflected.

    Thirteen compare-and-swap operations on whole arrays (the network of Devillard's `opt_med7`): a fifth of the time of
    a sort or partition of every window.
    """
    half = MEDIAN_FRAMES // 2
    frames = weights.shape[1]
    if frames <= half:
        return weights
    padded = np.pad(weights, ((0, 0), (half, half)), mode="reflect")
    lanes = [padded[:, shift : shift + frames] for shift in range(MEDIAN_FRAMES)]
    for low, high in _MEDIAN_OF_7:
        lanes[low], lanes[high] = np.minimum(lanes[low], lanes[high]), np.maximum(lanes[low], lanes[high])
    return lanes[half]


def _path(cost: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cheapest monotonic path from corner to corner of `cost` [Q, T]: first and last frame of each row, inclusive.

    A row's recurrence d[t] = cost[t] + min(above[t-1], above[t], d[t-1]) has the closed form
    d[t] = C[t] + min over k <= t of (min(above[k-1], above[k]) - C[k-1]) with C the running sum of the row's cost,
    so that a row takes a handful of vector operations instead of a loop over frames.
    """
    tokens, frames = cost.shape
    places = np.arange(frames)
    sums = np.cumsum(cost, axis=1, dtype=np.float64)
    before = sums - cost
    entry = np.zeros((tokens, frames), dtype=np.int64)  # frame at which the best path to (q, t) enters row q
    diagonal = np.zeros((tokens, frames), dtype=np.bool_)  # and whether it comes from the frame before
    above = sums[0]
    shifted = np.full(frames, np.inf)
    for row in range(1, tokens):
        shifted[1:] = above[:-1]
        np.less_equal(shifted, above, out=diagonal[row])
        offers = np.minimum(shifted, above) - before[row]
        best = np.minimum.accumulate(offers)
        np.maximum.accumulate(np.where(offers <= best, places, 0), out=entry[row])
        above = sums[row] + best
    first, last = np.zeros(tokens, dtype=np.int64), np.zeros(tokens, dtype=np.int64)
    frame = frames - 1
    for row in range(tokens - 1, -1, -1):
        last[row] = frame
        frame = first[row] = entry[row, frame]
        if row and diagonal[row, frame]:
            frame -= 1
    return first, last


def _narrow(
    weights: NDArray[np.float32], first: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Within first..last of each row, the first and last frame with HEARD_SHARE of the row's peak there."""
    places = np.arange(weights.shape[1])
    inside = (places >= first[:, None]) & (places <= last[:, None])
    held = np.where(inside, weights, -np.inf)
    heard = held >= HEARD_SHARE * held.max(axis=1, keepdims=True)
    heard &= inside
    none = ~heard.any(axis=1)
    from_left = np.where(none, first, heard.argmax(axis=1))
    from_right = np.where(none, last, weights.shape[1] - 1 - heard[:, ::-1].argmax(axis=1))
    return from_left, from_right
