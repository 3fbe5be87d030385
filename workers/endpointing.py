"""When a turn ends: speech and silence, the open turn, and the rules (protocol 5.1, 5.2). All in audio time.

Observations pass a gate and become spans of speech and silence. Every rule tells *when* it ends the turn, as a time in
the audio; whether that lies in the past, because words came late, is of no concern to it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wire.speech_models import MODELS, Family
from workers.completeness import unfinished
from workers.recognizer import Observation
from workers.words import FULL_STOPS, Word

#: Less speech than this since the last end of turn does not end a turn, unless it has words (protocol 5.1).
MIN_SPEECH_MS = 80
#: What a patient model waits on top of the shorter silence (protocol 5.2, rule 4).
PATIENCE_MS = 100
#: A shorter burst above the threshold is noise and interrupts no silence.
MIN_BURST_MS = 50
#: While someone speaks, speech goes on down to this much below the threshold, and never below the floor: the rule of
#: Silero's authors (`get_speech_timestamps`, `neg_threshold`).
HYSTERESIS, HYSTERESIS_FLOOR = 0.15, 0.01


@dataclass(frozen=True)
class TurnRules:
    """How a session wants its turns (protocol 2.2).

    `whole`: as the U3 family has them: announced by `SpeechStarted`, rewritten by every partial, ended by punctuation
    (protocol 4.2, 4.3.2, 5.2). `hold`: share of the longest silence for which such a turn is held where it stops inside
    a number, a spelling or an address.
    """

    vad_threshold: float = 0.4
    min_turn_silence_ms: int = 400
    max_turn_silence_ms: int = 1280
    end_of_turn_confidence_threshold: float = 0.4
    format_turns: bool = False
    filter_profanity: bool = False
    language_detection: bool = False
    max_turn_ms: int = 60_000
    whole: bool = False
    hold: float = 1.0

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "TurnRules":
        """From `SessionParams.for_worker()`. Raises KeyError.

        The U3 family is always formatted (protocol 4.3.3). Its newest member, where accuracy counts most, holds what is
        unfinished for half as long, and waits a little longer for ordinary sentences (protocol 5.2, rule 4).
        """
        model = MODELS.get(params.get("speech_model", ""))
        is_u3 = model is not None and model.family is Family.U3
        patient = model is not None and model.patient and params.get("mode") == "max_accuracy"
        return cls(
            vad_threshold=params["vad_threshold"],
            min_turn_silence_ms=params["min_turn_silence"] + (PATIENCE_MS if patient else 0),
            max_turn_silence_ms=params["max_turn_silence"],
            hold=0.5 if patient else 1.0,
            end_of_turn_confidence_threshold=params["end_of_turn_confidence_threshold"],
            format_turns=params["format_turns"] or is_u3,
            whole=is_u3,
            filter_profanity=params.get("filter_profanity", False),
            language_detection=params.get("language_detection", False),
        )


# --------------------------------------------------------------------------------------------------------------
# from observations to spans


@dataclass(frozen=True)
class Span:
    """Audio of one kind. `speech`: the gate's probability where the span began to count."""

    start_ms: int
    end_ms: int
    voiced: bool
    speech: float = 0.0


class SpeechGate:
    """Observations -> spans without gaps. A burst is held back until it is long enough to be speech, or over."""

    def __init__(self, threshold: float, at_ms: int) -> None:
        self.threshold = threshold
        self.at_ms = at_ms
        self._speaking = False
        self._burst_ms: int | None = None

    def hear(self, observation: Observation) -> Span | None:
        start, self.at_ms = self.at_ms, observation.at_ms
        if self._burst_ms is not None:
            start = self._burst_ms
        loud = observation.speech >= (self._quieter() if self._speaking else self.threshold)
        if loud and not self._speaking and self.at_ms - start < MIN_BURST_MS:
            self._burst_ms = start
            return None
        self._burst_ms, self._speaking = None, loud
        return Span(start, self.at_ms, loud, observation.speech)

    def _quieter(self) -> float:
        return max(self.threshold - HYSTERESIS, min(self.threshold, HYSTERESIS_FLOOR))


# --------------------------------------------------------------------------------------------------------------
# the open turn


@dataclass(frozen=True)
class Pause:
    """Silence inside the turn; `until_ms` grows while it lasts."""

    from_ms: int
    until_ms: int


@dataclass
class OpenTurn:
    """What is known of the turn that is not yet over."""

    settled: list[Word] = field(default_factory=list)
    tail: tuple[Word, ...] = ()
    heard_ms: int = -1  # how far the words have heard, and how sure they are that the turn is complete
    confidence: float = 0.0
    onset_ms: int | None = None
    onset_speech: float = 0.0
    speech_ms: int = 0
    spans: list[Span] = field(default_factory=list)  # since the onset, neighbours of a kind merged
    pauses: list[Pause] = field(default_factory=list)  # that words may still judge, the running one last
    pending: str | None = None  # the word last shown that may still change
    formatted: bool | None = None  # fixed by the first message
    masking: bool = False  # likewise
    language: str | None = None
    language_confidence: float = 0.0
    started: bool = False  # `SpeechStarted` was told
    told_ms: int = -1  # words that start before have been in an utterance

    @property
    def words(self) -> list[Word]:
        return [*self.settled, *self.tail]

    def listen(self, span: Span) -> None:
        """Keep what may have to be heard again."""
        last = self.spans[-1] if self.spans else None
        if last and last.voiced == span.voiced and last.end_ms == span.start_ms:
            self.spans[-1] = Span(last.start_ms, span.end_ms, last.voiced, last.speech)
        else:
            self.spans.append(span)

    def silences(self, now_ms: int, speaking: bool) -> list[Pause]:
        """Pauses after what counts as speech; empty while there is too little of it.

        Where the gate heard next to nothing but there are words (quiet speech), silence begins with the end of the
        last word.
        """
        if self.speech_ms >= MIN_SPEECH_MS:
            return self.pauses
        if speaking or not self.words:
            return []
        start = max(self.words[-1].end_ms, self.pauses[-1].from_ms if self.pauses else 0)
        return [Pause(start, max(start, now_ms))]


# --------------------------------------------------------------------------------------------------------------
# the rules


@dataclass(frozen=True)
class Moment:
    """What a rule looks at: the open turn, its silences, how far audio was heard, and what the session wants."""

    turn: OpenTurn
    pauses: Sequence[Pause]
    now_ms: int
    rules: TurnRules


Rule = Callable[[Moment], int | None]


def confident(at: Moment) -> int | None:
    """The words are all heard and sound complete, and the shorter silence has passed (protocol 5.1, semantic end).

    Confidence counts only if it comes from words that have heard the speech before the pause to its end; it is then a
    fact from that time on. A threshold of 0 asks for no confidence, so there is no word to wait for.
    """
    turn, threshold = at.turn, at.rules.end_of_turn_confidence_threshold
    wait_ms = at.rules.min_turn_silence_ms
    if at.rules.whole:
        return None
    if threshold == 0:
        return _first((pause, pause.from_ms + wait_ms) for pause in at.pauses)
    if turn.confidence <= threshold or not turn.words:
        return None
    return _heard(at, wait_ms)


def punctuated(at: Moment) -> int | None:
    """The words are all heard and close a sentence, and the shorter silence has passed (protocol 5.2, rules 1 and 2).

    Where they stop inside a number, a spelling or an address they are held for longer (rule 4).
    """
    words, rules = [word.text for word in at.turn.words], at.rules
    if not rules.whole or not words or not words[-1].endswith(FULL_STOPS):
        return None
    held_ms = round(rules.hold * rules.max_turn_silence_ms) if unfinished(words) else 0
    return _heard(at, max(rules.min_turn_silence_ms, held_ms))


def silent(at: Moment) -> int | None:
    """The longer silence has passed, whatever the words say (protocol 5.1, acoustic end)."""
    return _first((pause, pause.from_ms + at.rules.max_turn_silence_ms) for pause in at.pauses)


def long(at: Moment) -> int | None:
    """The turn has reached its longest. It is cut behind its last settled word, so that no word is cut in two."""
    turn = at.turn
    if turn.onset_ms is None or at.now_ms < turn.onset_ms + at.rules.max_turn_ms:
        return None
    if turn.settled and turn.settled[-1].end_ms > turn.onset_ms:
        return turn.settled[-1].end_ms
    return turn.onset_ms + at.rules.max_turn_ms


def _heard(at: Moment, wait_ms: int) -> int | None:
    """The earliest end after so much silence, of the pauses before which the words have heard the speech to its end."""
    heard_ms = at.turn.heard_ms
    heard = [pause for pause in at.pauses if pause.from_ms <= heard_ms]
    return _first((pause, max(heard_ms, pause.from_ms + wait_ms)) for pause in heard)


def _first(ends: Iterable[tuple[Pause, int]]) -> int | None:
    """The earliest end that its pause has reached."""
    return min((end_ms for pause, end_ms in ends if end_ms <= pause.until_ms), default=None)


#: Each tells at which time it ends the turn, None if it does not.
RULES: tuple[Rule, ...] = (confident, punctuated, silent, long)


@dataclass(frozen=True)
class Ending:
    """An end of turn at `at_ms`, by the rule of this name, seen at `now_ms`; `numbers` are what the rules looked at."""

    rule: str
    at_ms: int
    now_ms: int
    numbers: Mapping[str, Any]


def ending(at: Moment) -> Ending | None:
    """The turn's end by the rule that ends it first; None if it goes on."""
    rules = RULES if at.pauses else (long,)  # all others wait for a silence
    ends = {rule.__name__: end for rule in rules if (end := rule(at)) is not None}
    if not ends:
        return None
    first = min(ends, key=ends.__getitem__)
    return Ending(first, ends[first], at.now_ms, {**seen(at), **{f"{name}_ms": ends[name] for name in ends}})


def seen(at: Moment) -> dict[str, Any]:
    """What the rules look at, for the record: numbers, texts and None."""
    turn, rules = at.turn, at.rules
    pause = at.pauses[-1] if at.pauses else None
    return {
        "words": len(turn.words),
        "last_word": turn.words[-1].text if turn.words else None,
        "words_heard_ms": turn.heard_ms,
        "confidence": round(turn.confidence, 4),
        "threshold": rules.end_of_turn_confidence_threshold,
        "onset_ms": turn.onset_ms,
        "speech_ms": turn.speech_ms,
        "silence_from_ms": pause.from_ms if pause else None,
        "silence_until_ms": pause.until_ms if pause else None,
        "min_turn_silence_ms": rules.min_turn_silence_ms,
        "max_turn_silence_ms": rules.max_turn_silence_ms,
        "max_turn_ms": rules.max_turn_ms,
    }
