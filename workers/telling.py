"""What a client is told of the open turn: word by word (US), or rewritten whole by every message (U3) (protocol 4.3).

    US   settled words, and at most one more that may still change; `transcript` holds the settled ones alone
    U3   all words, none of them final before the end; `transcript` holds them all

Whether a turn is formatted, or masked, is settled by its first message.
"""

from collections.abc import Iterable

from wire.messages import Turn
from wire.messages import Word as TurnWord
from workers.endpointing import OpenTurn, TurnRules
from workers.profanity import masked
from workers.words import Word, join, unformatted


def pending(turn: OpenTurn, rules: TurnRules) -> str | None:
    """What a partial would show that may still change; None: nothing."""
    if rules.whole:
        return text(turn, rules, turn.words) if turn.words else None
    return _text(turn, rules, turn.tail[0]) if turn.tail else None


def text(turn: OpenTurn, rules: TurnRules, words: Iterable[Word]) -> str:
    """These words of the turn as the client sees them."""
    return join([_text(turn, rules, word) for word in words])


def partial(turn: OpenTurn, rules: TurnRules, order: int, utterance: str = "") -> Turn:
    """`utterance`: what is told of one that just ended; the U3 family tells none before the final."""
    if rules.whole:
        return _message(turn, rules, order, _told(turn, rules, turn.words, final=False), "", 0.0)
    words = _told(turn, rules, turn.settled, final=True) + _told(turn, rules, turn.tail[:1], final=False)
    return _message(turn, rules, order, words, utterance, turn.confidence)


def final(turn: OpenTurn, rules: TurnRules, order: int) -> Turn:
    """All words are settled."""
    words = _told(turn, rules, turn.settled, final=True)
    fresh = turn.settled if rules.whole else [word for word in turn.settled if word.start_ms >= turn.told_ms]
    confidence = 1.0 if rules.whole else turn.confidence
    return _message(turn, rules, order, words, text(turn, rules, fresh), confidence, end=True)


def _text(turn: OpenTurn, rules: TurnRules, word: Word) -> str:
    if turn.formatted is None:
        turn.formatted, turn.masking = rules.format_turns, rules.filter_profanity
    shown = word.text if turn.formatted else unformatted(word.text)
    return masked(shown) if turn.masking else shown


def _told(turn: OpenTurn, rules: TurnRules, words: Iterable[Word], *, final: bool) -> list[TurnWord]:
    return [
        TurnWord(word.start_ms, word.end_ms, _text(turn, rules, word), word.confidence, final)
        for word in words
    ]


def _message(
    turn: OpenTurn,
    rules: TurnRules,
    order: int,
    words: list[TurnWord],
    utterance: str,
    confidence: float,
    *,
    end: bool = False,
) -> Turn:
    transcript = join([word.text for word in words if word.word_is_final or rules.whole])
    formatted = rules.format_turns if turn.formatted is None else turn.formatted
    language = _language(turn, rules, told=end or bool(utterance))
    return Turn(order, formatted, end, transcript, confidence, tuple(words), utterance, *language)


def _language(turn: OpenTurn, rules: TurnRules, *, told: bool) -> tuple[str | None, float | None]:
    """Code and confidence, where the protocol has them (4.3) and the client wants them."""
    if not told or not rules.language_detection or turn.language is None:
        return None, None
    return turn.language, turn.language_confidence
