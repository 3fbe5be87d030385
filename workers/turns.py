"""Partial and final turns out of what the recognizer hears (protocol 4.3, 5.1, 5.5).

Theory of operation
-------------------
All time is audio time. How audio was cut into chunks, how late an answer came and what the clock says are invisible:

1. Observations pass a gate and become *spans* of speech and silence (`endpointing.py`).
2. Words come with the time up to which they have heard. A span that ends by then is considered before them.
3. The turn ends at the earliest time named by a rule, even if that has passed and speech has resumed since, because the
   words came late.
4. Ending is two-phase. The tracker asks `Flush(at)`; the recognizer settles all words that start before; only then is
   the final told: no word is pending at the end of a turn. What arrives in between waits in a queue, behind the spans
   that lie after `at`, and is heard by the next turn as if it came then.

What the client is told of a turn is made in `telling.py`.

A turn is open (SPEAKING or TRAILING) as soon as there is speech or a word. A turn that turns out to have no word, a
cough, is dropped without a message, and its order is used again.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from wire.messages import SpeechStarted, Turn
from workers import telling
from workers.endpointing import (
    MIN_SPEECH_MS,
    Ending,
    Moment,
    OpenTurn,
    Pause,
    Span,
    SpeechGate,
    TurnRules,
    ending,
    seen,
)
from workers.recognizer import Hypothesis
from workers.words import Word

__all__ = ["Effect", "Finished", "Flush", "SpeechStarted", "State", "Turn", "TurnRules", "TurnTracker"]

#: A pause of this length inside a turn ends an utterance (protocol 4.3.1).
UTTERANCE_PAUSE_MS = 300


@dataclass(frozen=True)
class Flush:
    """Ask the recognizer to settle every word that starts before `at_ms`. One at a time. `why`: for the record."""

    at_ms: int
    why: Ending | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Finished:
    """Everything up to the end of the audio has been told."""


Effect = Turn | SpeechStarted | Flush | Finished


# --------------------------------------------------------------------------------------------------------------
# states


class State(Enum):
    """Of the open turn."""

    __hash__ = object.__hash__  # Enum's own is Python code, and each hop asks for it

    LISTENING = "no speech and no word yet"
    SPEAKING = "in speech"
    TRAILING = "in the silence after speech or a word"
    FLUSHING = "the end is decided, its words are awaited"
    DONE = "the audio is over"


class Move(Enum):
    """What may change the state."""

    __hash__ = object.__hash__

    SPEECH = "a span of speech"
    SILENCE = "a span of silence"
    WORDS = "words are known"
    NOTHING = "it was noise: no word and too little speech"
    CUT = "the turn ends"
    ANSWER = "the recognizer has settled the turn's words"
    OVER = "the audio is over and nothing is open"


_LISTENING, _SPEAKING, _TRAILING, _FLUSHING, _DONE = State

#: Every legal move. A move that is not here is a bug and raises before anything changes.
MOVES: Mapping[tuple[State, Move], State] = {
    (_LISTENING, Move.SILENCE): _LISTENING,
    (_LISTENING, Move.SPEECH): _SPEAKING,
    (_LISTENING, Move.WORDS): _TRAILING,  # too quiet for the gate
    (_LISTENING, Move.OVER): _DONE,
    (_SPEAKING, Move.SPEECH): _SPEAKING,
    (_SPEAKING, Move.SILENCE): _TRAILING,
    (_SPEAKING, Move.WORDS): _SPEAKING,
    (_SPEAKING, Move.CUT): _FLUSHING,
    (_TRAILING, Move.SILENCE): _TRAILING,
    (_TRAILING, Move.SPEECH): _SPEAKING,
    (_TRAILING, Move.WORDS): _TRAILING,
    (_TRAILING, Move.NOTHING): _LISTENING,
    (_TRAILING, Move.CUT): _FLUSHING,
    (_FLUSHING, Move.ANSWER): _LISTENING,
}


# --------------------------------------------------------------------------------------------------------------
# the tracker


@dataclass(frozen=True)
class _Told:
    """The words of one hypothesis."""

    settled: tuple[Word, ...]
    tail: tuple[Word, ...] | None
    heard_ms: int
    confidence: float
    language: str | None = None
    language_confidence: float = 0.0


@dataclass(frozen=True)
class _Force:
    at_ms: int


@dataclass(frozen=True)
class _Finish:
    at_ms: int


_Input = Span | _Told | _Force | _Finish | TurnRules


class TurnTracker:
    """Turns of one session, from `at_ms` of its audio on; `order` is the first turn's.

    `order` is the order of the open turn, `cut_ms` where it begins: a session that resumes there with that order
    tells the same finals. After DONE every call returns nothing.
    """

    def __init__(self, rules: TurnRules, order: int, at_ms: int = 0) -> None:
        self.state = State.LISTENING
        self.order = order
        self.cut_ms = at_ms
        self._rules = rules
        self._gate = SpeechGate(rules.vad_threshold, at_ms)
        self._turn = OpenTurn()
        self._now_ms = at_ms
        self._known_ms = -1
        self._queue: deque[_Input] = deque()
        self._flush_ms = 0
        self._finishing = False

    # ---- inputs

    def advance(self, hypothesis: Hypothesis) -> list[Effect]:
        """What follows from one step's hypothesis.

        Raises ValueError, and changes nothing, if its hops do not advance.
        """
        if self.state is State.DONE:
            return []
        at_ms = self._gate.at_ms
        for observation in hypothesis.observations:
            if observation.at_ms <= at_ms:
                raise ValueError(f"hops run backwards: to {observation.at_ms} ms after {at_ms}")
            at_ms = observation.at_ms
        self._queue.extend(self._inputs(hypothesis))
        effects: list[Effect] = []
        answered = hypothesis.flushed_ms is not None and hypothesis.flushed_ms >= self._flush_ms
        if self.state is State.FLUSHING and answered:
            effects = self._answer()
        return effects + self._run()

    def force_endpoint(self, at_ms: int) -> list[Effect]:
        """The client ends the turn at `at_ms` (protocol 5.5); nothing happens if nobody has spoken. Call it when the
        hypotheses of the audio up to there have been given.
        """
        return self._put(_Force(at_ms))

    def configure(self, rules: TurnRules) -> list[Effect]:
        """New rules from here on. Whether a turn is formatted, or masked, is settled by its first message."""
        self._gate.threshold = rules.vad_threshold
        return self._put(rules)

    def finish(self, at_ms: int) -> list[Effect]:
        """The audio is over and ends at `at_ms`; `Finished` follows when the open turn has been told."""
        return self._put(_Finish(at_ms))

    def _put(self, item: _Input) -> list[Effect]:
        if self.state is State.DONE:
            return []
        self._queue.append(item)
        return self._run()

    def _inputs(self, hypothesis: Hypothesis) -> list[_Input]:
        """Spans and words in order of audio time."""
        spans = [span for hop in hypothesis.observations if (span := self._gate.hear(hop))]
        news = hypothesis.settled or hypothesis.tail is not None or hypothesis.flushed_ms is not None
        if not news and hypothesis.heard_ms <= self._known_ms:
            return list(spans)
        self._known_ms = max(self._known_ms, hypothesis.heard_ms)
        confidence = min(max(0.0, hypothesis.end_of_turn), 1.0)  # in this order NaN becomes 0
        told = _Told(
            hypothesis.settled,
            hypothesis.tail,
            hypothesis.heard_ms,
            confidence,
            hypothesis.language,
            hypothesis.language_confidence,
        )
        before = [span for span in spans if span.end_ms <= told.heard_ms]
        return [*before, told, *spans[len(before) :]]

    # ---- the loop

    def _run(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._queue and self.state not in (State.FLUSHING, State.DONE):
            effects += self._take(self._queue.popleft())
        return effects

    def _take(self, item: _Input) -> list[Effect]:
        changed = False
        match item:
            case Span():
                self._listen(item)
            case _Told():
                changed = self._learn(item)
            case TurnRules():
                self._rules = item
            case _Force(at_ms):
                spoken = self._turn.onset_ms is not None and self._turn.onset_ms < at_ms
                return self._cut(self._asked("forced", at_ms)) if spoken else []
            case _Finish(at_ms):
                return self._finish(at_ms)
        return self._decide(changed)

    def _move(self, move: Move) -> None:
        state = MOVES.get((self.state, move))
        if state is None:
            raise RuntimeError(f"{move} in {self.state}")
        self.state = state

    def _listen(self, span: Span) -> None:
        turn, start = self._turn, max(span.start_ms, self._now_ms)
        if span.end_ms <= start:
            return
        if start > span.start_ms:
            span = replace(span, start_ms=start)
        self._now_ms = span.end_ms
        if span.voiced:
            self._voice(span)
        elif self.state is State.SPEAKING:
            turn.pauses.append(Pause(start, span.end_ms))
        elif turn.pauses:
            turn.pauses[-1] = Pause(turn.pauses[-1].from_ms, span.end_ms)
        self._move(Move.SPEECH if span.voiced else Move.SILENCE)
        if self.state is not State.LISTENING:
            turn.listen(span)

    def _voice(self, span: Span) -> None:
        turn = self._turn
        if turn.onset_ms is None:
            turn.onset_ms, turn.onset_speech = span.start_ms, span.speech
        turn.speech_ms += span.end_ms - span.start_ms
        if self.state is State.TRAILING and turn.pauses:
            pause = turn.pauses[-1]
            if pause.until_ms - pause.from_ms < self._rules.min_turn_silence_ms:
                turn.pauses.pop()  # too short to end a turn, whatever the words say later

    def _learn(self, told: _Told) -> bool:
        """Take in words; whether there is something to show."""
        turn = self._turn
        turn.settled += told.settled
        if told.tail is not None:
            turn.tail = told.tail
        elif told.settled:
            turn.tail = tuple(word for word in turn.tail if word.start_ms >= told.settled[-1].end_ms)
        turn.confidence, turn.heard_ms = told.confidence, max(turn.heard_ms, told.heard_ms)
        self._hear_language(told)
        running = turn.pauses[-1:] if self.state is State.TRAILING else []
        closed = turn.pauses[: len(turn.pauses) - len(running)]
        turn.pauses = [pause for pause in closed if pause.until_ms >= turn.heard_ms] + running
        if turn.settled or turn.tail:
            if turn.onset_ms is None:
                turn.onset_ms = turn.words[0].start_ms
            self._move(Move.WORDS)
        fresh = bool(told.settled) and not self._rules.whole
        return fresh or self._pending() != turn.pending

    def _hear_language(self, told: _Told) -> None:
        """A language that the client gave is told as certain: nobody listened for another."""
        if told.language is not None:
            self._turn.language = told.language
            self._turn.language_confidence = told.language_confidence or 1.0

    # ---- decisions

    def _decide(self, changed: bool) -> list[Effect]:
        if self.state is State.LISTENING and not changed:
            return []
        end = ending(self._moment())
        utterance = self._utterance() if end is None else ""
        effects = self._show(utterance) if changed or utterance else []
        if end is not None:
            effects += self._cut(end)
        elif self._is_noise():
            self._move(Move.NOTHING)
            self._turn = OpenTurn()
        return effects

    def _moment(self) -> Moment:
        return Moment(self._turn, self._silences(), self._now_ms, self._rules)

    def _asked(self, rule: str, at_ms: int) -> Ending:
        """An end that the client wants."""
        return Ending(rule, at_ms, self._now_ms, seen(self._moment()))

    def _silences(self) -> list[Pause]:
        return self._turn.silences(self._now_ms, self.state is State.SPEAKING)

    def _is_noise(self) -> bool:
        turn = self._turn
        if self.state is not State.TRAILING or turn.settled or turn.tail or turn.speech_ms >= MIN_SPEECH_MS:
            return False
        pause = turn.pauses[-1] if turn.pauses else None
        return pause is None or pause.until_ms - pause.from_ms >= self._rules.max_turn_silence_ms

    def _cut(self, why: Ending) -> list[Effect]:
        """End the turn; what was heard after its end is the next turn's."""
        self._move(Move.CUT)
        at_ms = why.at_ms
        self._flush_ms = at_ms
        self._queue.extendleft(span for span in reversed(self._turn.spans) if span.end_ms > at_ms)
        return [Flush(at_ms, why)]

    def _finish(self, at_ms: int) -> list[Effect]:
        if self.state is not State.LISTENING:
            self._finishing = True
            return self._cut(self._asked("terminated", at_ms))
        self._move(Move.OVER)
        self._queue.clear()
        return [Finished()]

    def _answer(self) -> list[Effect]:
        """The words of the turn are settled: tell the final, and open the next turn where this one was cut."""
        self._turn.settled += self._claim()
        effects = self._final()
        self._move(Move.ANSWER)
        self._turn, self._now_ms, self.cut_ms = OpenTurn(), self._flush_ms, self._flush_ms
        if self._finishing:
            self._move(Move.OVER)
            self._queue.clear()
            effects.append(Finished())
        return effects

    def _claim(self) -> list[Word]:
        """Take the turn's words out of the queue; leave those of the next turn, and the tail, with the answer."""
        places = [place for place, item in enumerate(self._queue) if isinstance(item, _Told)]
        told = [item for item in self._queue if isinstance(item, _Told)]
        settled = [word for item in told for word in item.settled]
        mine = [
            n for n, word in enumerate(settled, start=1) if self._finishing or word.start_ms < self._flush_ms
        ]
        count = mine[-1] if mine else 0
        tails = [item.tail for item in told if item.tail is not None]
        floor_ms = max([self._flush_ms, *(word.end_ms for word in settled[-1:])])
        tail = tuple(word for word in (tails[-1] if tails else self._turn.tail) if word.start_ms >= floor_ms)
        if not settled[count:] and not tail:
            self._turn.confidence = told[-1].confidence
        for item in told:
            self._hear_language(item)
        left = count
        for place, item in zip(places, told, strict=True):
            rest = item.settled[left:]
            left = max(0, left - len(item.settled))
            kept = replace(item, settled=rest, tail=tail if place == places[-1] else None)
            self._queue[place] = replace(kept, language=None)  # it was the ended turn's
        return settled[:count]

    # ---- messages

    def _pending(self) -> str | None:
        return telling.pending(self._turn, self._rules)

    def _utterance(self) -> str:
        """The words of the utterance that just ended: those not told in an earlier one, the tail included.

        Told once for each pause, when the words have heard it begin; later than the pause, if they come later. A turn
        that is told whole is shown at a pause that might have ended it (protocol 5.2, rule 2).
        """
        turn, pauses = self._turn, self._silences()
        if self.state is not State.TRAILING or not pauses or turn.heard_ms < pauses[-1].from_ms:
            return ""
        wait_ms = self._rules.min_turn_silence_ms if self._rules.whole else UTTERANCE_PAUSE_MS
        end = max(turn.heard_ms, pauses[-1].from_ms + wait_ms)
        words = [word for word in turn.words if word.start_ms >= turn.told_ms]
        if end > self._now_ms or not words:
            return ""
        turn.told_ms = end
        return telling.text(turn, self._rules, words)

    def _show(self, utterance: str) -> list[Effect]:
        self._turn.pending = self._pending()
        return self._announced(telling.partial(self._turn, self._rules, self.order, utterance))

    def _final(self) -> list[Effect]:
        """The final; nothing for a turn without a word, save that a word once shown is taken back."""
        turn = self._turn
        turn.tail = ()
        if not turn.settled:
            return self._show("") if turn.pending is not None else []
        effects = self._announced(telling.final(turn, self._rules, self.order))
        self.order += 1
        return effects

    def _announced(self, message: Turn) -> list[Effect]:
        """The first message of a turn of the U3 family comes behind `SpeechStarted` (protocol 4.2)."""
        turn = self._turn
        if turn.started or not self._rules.whole:
            return [message]
        turn.started = True
        return [SpeechStarted(turn.onset_ms or 0, turn.onset_speech), message]
